//! The command line.

use std::path::PathBuf;

use anyhow::{bail, Context, Result};
use serde_json::{json, Value};

const USAGE: &str = "usage: ratelimit-bench --pg-config PATH [--quick] [--seconds N] [--rounds N]";

/// What to do, and for how long.
#[derive(Debug)]
pub struct Options {
    /// The installation to measure.
    pub pg_config: PathBuf,
    /// How long one slice of pgbench takes; pgbench knows whole seconds only. Each of its sessions is a new process that maps the
    /// shared memory page by page as it goes, with spread keys about 3000 page faults, so very short slices wrong the extension.
    pub seconds: u32,
    /// How often each cell of pgbench that has a target gets its turn.
    pub rounds: usize,
    /// In which of these rounds the other cells get theirs: in one of so many.
    pub others_every: usize,
    /// How often each cell of pgbench with durable limiters gets its turn.
    pub durable_rounds: usize,
    /// How often each case inside a backend gets its turn.
    pub inside_rounds: usize,
    /// Rows of `generate_series` for the hot key.
    pub rows: u64,
    /// Whether to be done soon rather than to be right.
    pub quick: bool,
    /// How long another session keeps an old snapshot open.
    pub snapshot_seconds: u32,
    /// How often the hot key of a durable limiter is granted.
    pub grants: u64,
    /// How often the server is restarted to save and to load.
    pub restarts: usize,
    /// How often calls are watched with and without saves, and for how long each time.
    pub saving_rounds: usize,
    pub saving_seconds: u32,
    /// How often a hundred sessions wait for their turn.
    pub waiter_rounds: usize,
}

impl Options {
    /// Reads the arguments of this process.
    pub fn from_args() -> Result<Self> {
        let mut pg_config = None;
        let (mut quick, mut seconds, mut rounds) = (false, None, None);
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value =
                || args.next().with_context(|| format!("{arg}: value missing\n{USAGE}"));
            match arg.as_str() {
                "--pg-config" => pg_config = Some(PathBuf::from(value()?)),
                "--quick" => quick = true,
                "--seconds" => seconds = Some(value()?.parse::<u32>().context("--seconds")?),
                "--rounds" => rounds = Some(value()?.parse::<usize>().context("--rounds")?),
                _ => bail!("unknown argument {arg}\n{USAGE}"),
            }
        }
        let (default_seconds, default_rounds, inside_rounds, rows) =
            if quick { (1, 1, 2, 30_000) } else { (2, 7, 7, 100_000) };
        let rounds = rounds.unwrap_or(default_rounds).max(1);
        Ok(Options {
            pg_config: pg_config.context(USAGE)?,
            seconds: seconds.unwrap_or(default_seconds).max(1),
            rounds,
            durable_rounds: rounds.min(5),
            others_every: 4,
            inside_rounds,
            rows,
            quick,
            snapshot_seconds: if quick { 4 } else { 20 },
            grants: if quick { 40_000 } else { 1_000_000 },
            restarts: if quick { 1 } else { 3 },
            saving_rounds: if quick { 1 } else { 5 },
            saving_seconds: 3,
            waiter_rounds: if quick { 1 } else { 5 },
        })
    }

    /// All but the path, which is of no use to others.
    pub fn to_json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "rounds": self.rounds,
            "others_every": self.others_every,
            "durable_rounds": self.durable_rounds,
            "inside_rounds": self.inside_rounds,
            "rows": self.rows,
            "quick": self.quick,
            "snapshot_seconds": self.snapshot_seconds,
            "grants": self.grants,
            "restarts": self.restarts,
            "saving_rounds": self.saving_rounds,
            "saving_seconds": self.saving_seconds,
            "waiter_rounds": self.waiter_rounds,
        })
    }
}
