//! A private server.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use postgres::{Client, Config, NoTls};

use crate::account;
use crate::cluster::{self, Cluster};
use crate::scratch::Scratch;
use crate::Tree;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The port of every private server; it is only part of the socket's name.
const PORT: u16 = 5432;

/// The settings of every private server, which those of a [`Builder`] override.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("max_connections", "100"),
    ("shared_buffers", "16MB"),
    ("fsync", "off"),
    ("logging_collector", "off"),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
    ("lc_messages", "C"),
];

/// The ways to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Waits until all sessions have ended.
    Smart,
    /// Ends the sessions and writes everything to disk.
    Fast,
    /// Ends at once, as in a crash.
    Immediate,
}

/// What a server is to be like; see [`Server::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    tree: Tree,
    settings: Vec<(String, String)>,
    preload: bool,
    database: String,
    copies: Option<PathBuf>,
}

impl Builder {
    /// Begins with a copy of this cluster, which must outlive the start, and not with one of its own.
    pub fn copy_of(mut self, cluster: &Cluster) -> Self {
        self.copies = Some(cluster.path());
        self
    }

    /// Begins with a cluster of its own after all, which has another system identifier.
    pub fn cluster_of_its_own(mut self) -> Self {
        self.copies = None;
        self
    }

    /// Sets a parameter in `postgresql.conf`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whether the server loads the extension at its start, which it does unless told otherwise.
    pub fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    /// The database to connect to, created if it is not `postgres`.
    pub fn database(mut self, name: &str) -> Self {
        self.database = name.to_owned();
        self
    }

    /// Makes the cluster and starts the server.
    pub fn start(self) -> Result<Server> {
        let mut server = Server {
            scratch: Scratch::new()?,
            tree: self.tree,
            database: self.database,
            process: None,
        };
        match &self.copies {
            Some(cluster) => Cluster::copy(cluster, &server.pgdata())?,
            None => cluster::make(&server.tree, &server.pgdata())?,
        }

        let host = server.host();
        let preload = if self.preload { "ratelimit" } else { "" };
        let own =
            [("unix_socket_directories", host.as_str()), ("shared_preload_libraries", preload)];
        let asked = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // PostgreSQL takes the last of several lines for one parameter.
        let mut lines = String::new();
        for (name, value) in SETTINGS.iter().copied().chain(own).chain(asked) {
            writeln!(lines, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        let path = server.pgdata().join("postgresql.conf");
        std::fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))?;

        server.start_again()?;
        if server.database != "postgres" {
            let create = format!("CREATE DATABASE \"{}\"", server.database.replace('"', "\"\""));
            server.connect_to("postgres", "postgres")?.batch_execute(&create)?;
        }
        Ok(server)
    }
}

/// A private server; dropping it ends the server and removes all its files.
#[derive(Debug)]
pub struct Server {
    // The process goes first, then the folder it works in, then the programs it runs.
    process: Option<Child>,
    scratch: Scratch,
    tree: Tree,
    database: String,
}

impl Server {
    /// Describes a server to start.
    pub fn builder(tree: &Tree) -> Builder {
        Builder {
            tree: tree.clone(),
            settings: Vec::new(),
            preload: true,
            database: "postgres".to_owned(),
            copies: None,
        }
    }

    /// The installation that the server belongs to.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The folder of the Unix socket, in the place of a host name.
    pub fn host(&self) -> String {
        self.scratch.path().display().to_string()
    }

    /// The port number in the socket's name.
    pub fn port(&self) -> u16 {
        PORT
    }

    /// The data directory.
    pub fn pgdata(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// The process id of the running server.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// What the server has logged since it was made.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// How to connect to the server's database as its superuser, to change and use.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host_path(self.scratch.path())
            .port(PORT)
            .dbname(&self.database)
            .user("postgres")
            .connect_timeout(Duration::from_secs(10));
        config
    }

    /// Opens a session in the server's database as its superuser.
    pub fn connect(&self) -> Result<Client> {
        self.config().connect(NoTls).context("cannot connect")
    }

    /// Opens a session in the database `database` as the role `user`.
    pub fn connect_to(&self, database: &str, user: &str) -> Result<Client> {
        let mut config = self.config();
        config.dbname(database).user(user);
        config.connect(NoTls).with_context(|| format!("cannot connect to {database} as {user}"))
    }

    /// A client program of the installation, such as `psql`, set to connect to this server.
    pub fn command(&self, program: &str) -> Command {
        self.command_at(&self.tree.program(program))
    }

    /// The program at `path`, set to connect to this server.
    pub fn command_at(&self, path: &Path) -> Command {
        let mut command = Command::new(path);
        account::clean(&mut command);
        command
            .env("PGHOST", self.scratch.path())
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", &self.database);
        command
    }

    /// Starts the stopped server again.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("the server runs already");
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let child = account::command(self.tree.program("postgres"))?
            .arg("-D")
            .arg(self.pgdata())
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in a terminal is for this process alone, which then ends the server.
            .process_group(0)
            .spawn()
            .context("cannot start postgres")?;
        self.process = Some(child);
        self.wait_until_ready()
    }

    /// Waits until the server accepts sessions, at its start or after a crash.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if self.connect_to("postgres", "postgres").is_ok() {
                return Ok(());
            }
            if let Some(status) = self.try_wait()? {
                bail!("the server has ended ({status}); its log:\n{}", self.log());
            }
            if start.elapsed() > PATIENCE {
                bail!("the server accepts no sessions; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How often a process of the server died, and the others were ended for it.
    pub fn crashes(&self) -> usize {
        self.log().matches("all server processes terminated; reinitializing").count()
    }

    /// Kills a process of the server, and waits until the others have been ended and sessions are accepted again.
    pub fn crash(&mut self, pid: i32) -> Result<()> {
        let before = self.crashes();
        self.kill(pid)?;
        self.wait_for_crash(before)
    }

    /// Kills a process of the server, unless it has ended by itself.
    pub fn kill(&self, pid: i32) -> Result<()> {
        if self.children()?.contains(&pid) {
            signal(&[pid], Signal::SIGKILL);
        }
        Ok(())
    }

    fn children(&self) -> Result<Vec<i32>> {
        let server = i32::try_from(self.pid().context("the server is stopped")?)?;
        let children = processes()?.into_iter().filter(|process| process.parent == server);
        Ok(children.map(|process| process.pid).collect())
    }

    /// Waits until there was one more crash than `before`, and sessions are accepted again.
    pub fn wait_for_crash(&mut self, before: usize) -> Result<()> {
        let start = Instant::now();
        while self.crashes() == before {
            if start.elapsed() > PATIENCE {
                bail!("the server has not crashed; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.wait_until_ready()
    }

    /// Stops the server and keeps its data.
    pub fn stop(&mut self, mode: Stop) -> Result<()> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        let signal = match mode {
            Stop::Smart => Signal::SIGTERM,
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
        };
        kill(Pid::from_raw(pid.try_into()?), signal).context("cannot signal the server")?;
        let start = Instant::now();
        while self.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                bail!("the server does not stop; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends all processes of the server in the same moment, none of which can do anything any more, as when the power fails. What was
    /// handed to the operating system is kept.
    pub fn cut_power(&mut self) -> Result<()> {
        let pid = i32::try_from(self.pid().context("the server is stopped")?)?;
        // A stopped postmaster makes no more children, and stopped children go on with nothing.
        signal(&[pid], Signal::SIGSTOP);
        let mut all = self.children()?;
        signal(&all, Signal::SIGSTOP);
        all.push(pid);
        signal(&all, Signal::SIGKILL);
        self.process.take().context("the server is stopped")?.wait()?;
        all.pop();
        // They hold shared memory until they are gone.
        let start = Instant::now();
        while processes()?.iter().any(|p| all.contains(&p.pid) && !p.is_dead) {
            if start.elapsed() > PATIENCE {
                bail!("processes of the server do not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Stops the server and starts it again.
    pub fn restart(&mut self, mode: Stop) -> Result<()> {
        self.stop(mode)?;
        self.start_again()
    }

    /// Leaves the server running when this process ends, and returns its folder: the one to give
    /// to `psql -h`, which holds the data directory `data` as well.
    pub fn detach(mut self) -> Result<PathBuf> {
        self.tree.keep()?;
        self.scratch.keep()?;
        self.process = None;
        Ok(self.scratch.path().to_owned())
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let Some(process) = &mut self.process else {
            bail!("the server is stopped");
        };
        let status = process.try_wait()?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }
}

/// Sends a signal to processes, of which some may have ended.
fn signal(pids: &[i32], signal: Signal) {
    for pid in pids {
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}

/// A process of this machine.
struct Process {
    pid: i32,
    parent: i32,
    /// Nobody has taken note of its end yet.
    is_dead: bool,
}

fn processes() -> Result<Vec<Process>> {
    let output =
        Command::new("ps").args(["-A", "-o", "pid=", "-o", "ppid=", "-o", "state="]).output();
    let output = output.context("cannot run ps")?;
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Process { pid, parent, is_dead: words.next()?.starts_with('Z') })
    };
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(process).collect())
}

impl Drop for Server {
    fn drop(&mut self) {
        // Should this fail, the watchdog of the folder kills the server.
        let _ = self.stop(Stop::Immediate);
    }
}
