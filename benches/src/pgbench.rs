//! One run of pgbench.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
use nix::unistd::Pid;
use serde_json::{json, Value};
use testbed::Server;

use crate::cpu;

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// Transactions a second, without the time to connect.
    pub tps: f64,
    /// CPU microseconds a transaction of the server's processes.
    pub server_cpu: f64,
    /// The same of pgbench.
    pub client_cpu: f64,
    /// How many processors were busy with something else.
    pub other_load: f64,
    transactions: u64,
}

impl Slice {
    /// CPU microseconds a transaction on both sides.
    pub fn cpu(&self) -> f64 {
        self.server_cpu + self.client_cpu
    }

    pub fn to_json(self) -> Value {
        json!({
            "tps": self.tps, "transactions": self.transactions, "server_cpu_us": self.server_cpu,
            "client_cpu_us": self.client_cpu, "other_load": self.other_load,
        })
    }
}

/// How long a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    Seconds(u32),
    /// Of each client.
    Transactions(u64),
}

/// Runs a script with so many clients.
pub fn run(server: &Server, script: &Path, clients: u32, length: Length) -> Result<Slice> {
    let postmaster = server.pid().context("the server has gone")?;
    // One client and its backend take turns. Whether they get one processor or two, which costs several times as much, would be
    // chance; new backends inherit the postmaster's choice.
    let pinned = if clients == 1 { Some(Pinned::new(postmaster)?) } else { None };

    // House-keeping may have a session as well as we.
    let others = sessions(postmaster).unwrap_or(1).max(1);
    let start = Instant::now();
    let before = (cpu::of_ended_children(postmaster)?, cpu::of_own_children()?, cpu::of_all()?);
    let output = command(server, script, clients, length).output().context("cannot run pgbench")?;
    wait_for_backends(postmaster, others);
    let wall = start.elapsed();
    let server_cpu = cpu::of_ended_children(postmaster)?.saturating_sub(before.0);
    let client_cpu = cpu::of_own_children()?.saturating_sub(before.1);
    let others = cpu::of_all()?.saturating_sub(before.2 + server_cpu + client_cpu);
    drop(pinned);

    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench failed:\n{text}{problem}");
    let transactions: u64 = number(&text, "number of transactions actually processed: ")?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / transactions.max(1) as f64;
    Ok(Slice {
        tps: number(&text, "tps = ")?,
        server_cpu: each(server_cpu),
        client_cpu: each(client_cpu),
        other_load: others.as_secs_f64() / wall.as_secs_f64(),
        transactions,
    })
}

/// Runs a script for so many seconds, and calls `each` after each of them with its number, from 1 on. The answer is the transactions
/// of every second.
pub fn watch(
    server: &Server,
    script: &Path,
    clients: u32,
    seconds: u32,
    mut each: impl FnMut(u32) -> Result<()>,
) -> Result<Vec<f64>> {
    let mut child = command(server, script, clients, Length::Seconds(seconds))
        .arg("--progress=1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run pgbench")?;
    let lines = BufReader::new(child.stderr.take().context("no output of pgbench")?).lines();
    let mut tps = Vec::new();
    let mut text = String::new();
    for line in lines {
        let line = line?;
        if line.starts_with("progress: ") {
            tps.push(number(&line, " s, ")?);
            each(tps.len() as u32)?;
        }
        text.push_str(&line);
        text.push('\n');
    }
    ensure!(child.wait()?.success(), "pgbench failed:\n{text}");
    Ok(tps)
}

fn command(server: &Server, script: &Path, clients: u32, length: Length) -> Command {
    let mut command = server.command("pgbench");
    command
        .args(["--no-vacuum", "--protocol=prepared"])
        .arg(format!("--client={clients}"))
        .arg(format!("--jobs={}", clients.min(2)))
        .arg(match length {
            Length::Seconds(seconds) => format!("--time={seconds}"),
            Length::Transactions(count) => format!("--transactions={count}"),
        })
        .arg("--file")
        .arg(script);
    command
}

/// The number after `label` in what pgbench printed.
fn number<T: std::str::FromStr>(text: &str, label: &str) -> Result<T> {
    let rest = text.split(label).nth(1).unwrap_or_default();
    let word = rest.split([' ', '\n', '/']).next().unwrap_or_default();
    word.parse().ok().with_context(|| format!("no \"{label}\" in what pgbench printed:\n{text}"))
}

/// Waits until the postmaster has seen the end of all sessions but those that were there before: only then their CPU time is known.
fn wait_for_backends(postmaster: u32, others: usize) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2)
        && sessions(postmaster).is_some_and(|n| n > others)
    {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many sessions the postmaster has; those that have ended and that it has not yet seen end have no command line.
fn sessions(postmaster: u32) -> Option<usize> {
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let is_session = |pid: &&str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.is_empty() || String::from_utf8_lossy(&line).contains("[local]")
    };
    Some(std::fs::read_to_string(children).ok()?.split_whitespace().filter(is_session).count())
}

/// As long as this lives, new processes of the server and of ours run on one processor.
struct Pinned {
    postmaster: Pid,
    before: CpuSet,
}

impl Pinned {
    fn new(postmaster: u32) -> Result<Self> {
        let postmaster = Pid::from_raw(postmaster.try_into()?);
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let usable = |n: &usize| before.is_set(*n).unwrap_or(false);
        let last = (0..CpuSet::count()).rev().find(usable).context("no processor")?;
        let mut one = CpuSet::new();
        one.set(last)?;
        let pinned = Pinned { postmaster, before };
        for process in [postmaster, Pid::from_raw(0)] {
            sched_setaffinity(process, &one)?;
        }
        Ok(pinned)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for process in [self.postmaster, Pid::from_raw(0)] {
            let _ = sched_setaffinity(process, &self.before);
        }
    }
}
