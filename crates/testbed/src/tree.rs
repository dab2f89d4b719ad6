//! An installation of PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{bail, ensure, Context, Result};

use crate::account;
use crate::scratch::Scratch;

/// The environment variable from which [`Tree::from_env`] takes the path of `pg_config`.
const PG_CONFIG: &str = "RATELIMIT_PG_CONFIG";

/// The file that `dev/setup` writes to the top of each private installation.
const TOP: &str = "pg_config.path";

/// An installation of PostgreSQL, as its `pg_config` tells.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The path of `pg_config`.
    pub pg_config: PathBuf,
    /// The major version.
    pub major: u32,
    /// The folder of programs.
    pub bindir: PathBuf,
    /// The folder of loadable modules.
    pub pkglibdir: PathBuf,
    /// The folder of architecture-independent files.
    pub sharedir: PathBuf,
    /// The path of the makefile for extensions.
    pub pgxs: PathBuf,
    copy: Option<Arc<Mutex<Scratch>>>,
}

impl Tree {
    /// Asks `pg_config` about its installation.
    ///
    /// When run as root for an installation which the server's user cannot reach, such as one
    /// below a private home folder, the result is a temporary copy of it.
    pub fn new(pg_config: &Path) -> Result<Self> {
        let tree = Self::as_installed(pg_config)?;
        if account::can_run(&tree.bindir.join("postgres"))? {
            return Ok(tree);
        }
        tree.reachable_copy().with_context(|| {
            let user = account::ordinary_user().ok().flatten().map_or("you".into(), |u| u.name);
            format!("{} is not open to {user}", tree.bindir.display())
        })
    }

    /// Takes the path of `pg_config` from the environment variable `RATELIMIT_PG_CONFIG`.
    pub fn from_env() -> Result<Self> {
        let path = std::env::var_os(PG_CONFIG)
            .with_context(|| format!("{PG_CONFIG} must hold the path of a pg_config"))?;
        Self::new(Path::new(&path))
    }

    fn as_installed(pg_config: &Path) -> Result<Self> {
        let ask = |option: &str| -> Result<String> {
            let output = Command::new(pg_config)
                .arg(option)
                .output()
                .with_context(|| format!("cannot run {}", pg_config.display()))?;
            ensure!(output.status.success(), "{} {option} failed", pg_config.display());
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        let version = ask("--version")?;
        Ok(Self {
            pg_config: pg_config.to_owned(),
            major: major(&version).with_context(|| format!("unknown version: {version}"))?,
            bindir: ask("--bindir")?.into(),
            pkglibdir: ask("--pkglibdir")?.into(),
            sharedir: ask("--sharedir")?.into(),
            pgxs: ask("--pgxs")?.into(),
            copy: None,
        })
    }

    fn reachable_copy(&self) -> Result<Self> {
        let Some(top) = self.bindir.ancestors().find(|folder| folder.join(TOP).exists()) else {
            bail!("only an installation made by dev/setup can be copied");
        };
        let scratch = Scratch::new()?;
        let copy = scratch.path().join("pg");
        account::run(Command::new("cp").arg("-a").arg(top).arg(&copy))?;
        let pg_config = copy.join(std::fs::read_to_string(top.join(TOP))?.trim());
        let mut tree = Self::as_installed(&pg_config)?;
        tree.copy = Some(Arc::new(Mutex::new(scratch)));
        Ok(tree)
    }

    /// Leaves a temporary copy in place when this process ends.
    pub(crate) fn keep(&self) -> Result<()> {
        match &self.copy {
            Some(copy) => copy.lock().unwrap_or_else(|e| e.into_inner()).keep(),
            None => Ok(()),
        }
    }

    /// The program `name` of this installation.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// The runner of regression tests, if it is installed.
    pub fn pg_regress(&self) -> Option<PathBuf> {
        self.test_program("regress/pg_regress")
    }

    /// The runner of isolation tests, if it is installed.
    pub fn pg_isolation_regress(&self) -> Option<PathBuf> {
        self.test_program("isolation/pg_isolation_regress")
    }

    fn test_program(&self, name: &str) -> Option<PathBuf> {
        // .../pgxs/src/makefiles/pgxs.mk stands next to .../pgxs/src/test.
        let beside_pgxs = self.pgxs.parent()?.parent()?.join("test");
        let below_pkglibdir = self.pkglibdir.join("pgxs/src/test");
        let found = [beside_pgxs, below_pkglibdir].map(|folder| folder.join(name));
        let in_bindir = self.bindir.join(Path::new(name).file_name()?);
        found.into_iter().chain([in_bindir]).find(|path| path.exists())
    }
}

/// The major version in what `pg_config --version` prints.
fn major(version: &str) -> Option<u32> {
    let number = version.strip_prefix("PostgreSQL ")?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn major_of_releases_and_betas() {
        assert_eq!(super::major("PostgreSQL 15.20 (Debian 15.20-0+deb12u1)"), Some(15));
        assert_eq!(super::major("PostgreSQL 19beta1"), Some(19));
        assert_eq!(super::major("something else"), None);
    }
}
