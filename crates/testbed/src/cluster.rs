//! A cluster that was made and never started: others begin as its copies, which takes a tenth of the time of making one.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::scratch::Scratch;
use crate::{account, Tree};

/// The files of a new cluster. Its copies have the same system identifier.
#[derive(Debug)]
pub struct Cluster(Scratch);

impl Cluster {
    /// Makes one.
    pub fn new(tree: &Tree) -> Result<Self> {
        let cluster = Cluster(Scratch::new()?);
        make(tree, &cluster.path())?;
        Ok(cluster)
    }

    /// Its data directory.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
        account::run(account::command("cp")?.arg("-a").args([from, to]))
    }
}

/// Makes a cluster with the superuser `postgres`, who may connect without a password.
pub(crate) fn make(tree: &Tree, path: &Path) -> Result<()> {
    account::run(
        account::command(tree.program("initdb"))?
            .args(["--no-locale", "-E", "UTF8", "-A", "trust", "-U", "postgres", "--no-sync"])
            .arg("-D")
            .arg(path),
    )
}
