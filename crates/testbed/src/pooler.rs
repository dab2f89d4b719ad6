//! A private pgbouncer in front of a private server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use postgres::{Client, Config, NoTls};

use crate::account;
use crate::scratch::Scratch;
use crate::Server;

/// The environment variable from which [`Pooler::program`] takes the path.
const PGBOUNCER: &str = "RATELIMIT_PGBOUNCER";

const PORT: u16 = 6432;
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pooler; dropping it ends it.
#[derive(Debug)]
pub struct Pooler {
    process: Child,
    scratch: Scratch,
}

impl Pooler {
    /// The pgbouncer to use, if there is one: libraries that are missing on this machine are in the same folder.
    pub fn program() -> Option<PathBuf> {
        std::env::var_os(PGBOUNCER).map(PathBuf::from).filter(|path| path.exists())
    }

    /// Starts `program` in transaction mode, with at most so many connections to each database of the server.
    pub fn start(server: &Server, program: &Path, connections: u32) -> Result<Self> {
        let scratch = Scratch::new()?;
        let folder = scratch.path().display().to_string();
        // The server's user may not reach the folder where they are.
        let home = program.parent().context("no folder")?;
        for entry in fs::read_dir(home).with_context(|| home.display().to_string())? {
            let file = entry?.path();
            fs::copy(&file, scratch.path().join(file.file_name().context("no name")?))?;
        }
        // The watchdog of the folder ends the process whose number is in this file.
        fs::create_dir(scratch.path().join("data"))?;
        account::give(&scratch.path().join("data"))?;
        let settings = format!(
            "[databases]\n* = host={} port={} user=postgres\n\
             [pgbouncer]\npool_mode = transaction\nauth_type = any\nunix_socket_dir = {folder}\nlisten_port = {PORT}\n\
             default_pool_size = {connections}\nmax_client_conn = 200\npidfile = {folder}/data/postmaster.pid\n\
             logfile = {folder}/log\nignore_startup_parameters = extra_float_digits\n",
            server.host(),
            server.port(),
        );
        fs::write(scratch.path().join("pgbouncer.ini"), settings)?;
        account::give(scratch.path())?;
        let name = program.file_name().context("no name")?;
        let process = account::command(scratch.path().join(name))?
            .arg("--quiet")
            .arg(scratch.path().join("pgbouncer.ini"))
            .env("LD_LIBRARY_PATH", scratch.path())
            .spawn()
            .context("cannot start pgbouncer")?;
        let pooler = Pooler { process, scratch };
        let start = Instant::now();
        while let Err(error) = pooler.connect("postgres") {
            let log = fs::read_to_string(pooler.scratch.path().join("log")).unwrap_or_default();
            ensure!(start.elapsed() < PATIENCE, "pgbouncer does not start: {error:#}\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(pooler)
    }

    /// Opens a session through the pooler. It knows nothing of prepared statements: use `simple_query`.
    pub fn connect(&self, database: &str) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(self.scratch.path()).port(PORT).dbname(database).user("postgres");
        config.connect(NoTls).context("cannot connect to pgbouncer")
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Nothing is left for the watchdog to end.
        let _ = fs::remove_file(self.scratch.path().join("data/postmaster.pid"));
    }
}
