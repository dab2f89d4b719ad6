//! A temporary folder that goes away, with the server in it, even when this process is killed.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Waits for the other end of its input to close, which a dying process does as well, then ends
/// the server in the folder "$1" and removes the folder. A line of input says to keep it all.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r keep && exit
pidfile=$1/data/postmaster.pid
if read -r pid 2>/dev/null <"$pidfile" && kill -QUIT "$pid"; then
    patience=100
    while [ -e "$pidfile" ] && [ $((patience -= 1)) -gt 0 ]; do
        sleep 0.1
    done
fi
rm -rf "$1"
"#;

#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
    watchdog: Child,
}

impl Scratch {
    /// Makes a folder of the ordinary user. The path of a socket has to be short, so it is one
    /// below `/tmp` whatever `TMPDIR` says.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("ratelimit-")
            .tempdir_in("/tmp")
            .context("cannot make a temporary folder")?;
        crate::account::give(folder.path())?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(folder.path())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the watchdog")?;
        Ok(Self { folder: folder.keep(), watchdog })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Leaves the folder, and a server in it, when this process ends.
    pub(crate) fn keep(&mut self) -> Result<()> {
        let mut input = self.watchdog.stdin.as_ref().context("the watchdog has ended")?;
        input.write_all(b"keep\n").context("the watchdog has ended")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}
