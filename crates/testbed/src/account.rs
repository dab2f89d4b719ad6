//! The account that server programs run as: PostgreSQL refuses to run as root.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use nix::unistd::{geteuid, User};

/// The ordinary user to switch to, or `None` when the process already runs as one.
pub(crate) fn ordinary_user() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    anyhow::bail!("run as root, and there is neither a user postgres nor a user nobody")
}

/// A command that runs `program` as an ordinary user, under the same process id.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = match ordinary_user()? {
        None => Command::new(program),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={}", user.uid))
                .arg(format!("--regid={}", user.gid))
                .arg("--clear-groups")
                .arg("--")
                .arg(program);
            command
        }
    };
    // Where the caller stands may be closed to that user.
    command.current_dir("/");
    clean(&mut command);
    Ok(command)
}

/// Makes a command independent of the caller's settings for PostgreSQL and language.
pub(crate) fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("PG") || n.starts_with("LC_")) {
            command.env_remove(name);
        }
    }
    // With RUST_BACKTRACE each error of the extension would put a stack trace into the log.
    command.env_remove("RUST_BACKTRACE").env("LC_ALL", "C").env("TZ", "UTC");
}

/// Whether the ordinary user can run `program`.
pub(crate) fn can_run(program: &Path) -> Result<bool> {
    let status = command("test")?.arg("-x").arg(program).status();
    Ok(status.context("cannot run test")?.success())
}

/// Gives `folder` to the ordinary user.
pub(crate) fn give(folder: &Path) -> Result<()> {
    if let Some(user) = ordinary_user()? {
        std::os::unix::fs::chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .with_context(|| format!("cannot give {} to {}", folder.display(), user.name))?;
    }
    Ok(())
}

/// Runs a command to its end, with its output in the error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}
