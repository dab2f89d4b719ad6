//! Histories: random schedules of transactions, and an oracle that knows the definitions and nothing of how they are kept.
//!
//! A schedule is run step by step in up to four sessions on one key. Of each grant that is committed in the end the client
//! knows a time before and a time after; the oracle complains only if no times in between would do. `RATELIMIT_HISTORIES` sets how many
//! schedules there are, `RATELIMIT_SEED` the first one's seed.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::Server;

use super::ask::Ask;
use super::kinds::{Kind, ALGORITHMS};
use super::oracle::{Grant, Oracle, PERIOD, QUOTA};
use super::random::Random;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] =
    &[("no_history_admits_more_than_its_definition", no_history_admits_more)];

const NAME: &str = "histories";
const SCHEDULES: u64 = 200;
const STEPS: u64 = 60;

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("{name}={value}")),
        Err(_) => Ok(default),
    }
}

fn no_history_admits_more(bed: &Bed) -> Result<()> {
    let (count, seed) = (setting("RATELIMIT_HISTORIES", SCHEDULES)?, setting("RATELIMIT_SEED", 1)?);
    // So few keys that those of a schedule are pushed out and read again from the tables.
    let small = bed.private().setting("ratelimit.max_keys", "100").start()?;
    let large = bed.private().start()?;
    let kinds = [(&large, Kind::Refund), (&small, Kind::Durable)];
    for (server, kind) in kinds {
        let mut admin = Database::new(server, NAME)?.connect()?;
        for algorithm in ALGORITHMS {
            let rates = format!("{QUOTA} per {} ms", PERIOD.as_millis());
            kind.create(&mut admin, algorithm, &rates, algorithm)?;
        }
    }
    let epoch = Instant::now();
    let groups: Vec<_> =
        kinds.into_iter().flat_map(|kind| ALGORITHMS.map(|name| (kind, name))).collect();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = groups
            .iter()
            .enumerate()
            .map(|(n, ((server, kind), algorithm))| {
                let share = groups.len() as u64;
                let run = move || -> Result<u64> {
                    let mut group = Group::new(server, *kind, algorithm, epoch)?;
                    let mine = (seed..seed + count).filter(|seed| seed % share == n as u64);
                    for seed in mine {
                        group.run(seed).with_context(|| {
                            format!(
                                "{kind:?} {algorithm}, RATELIMIT_SEED={seed} RATELIMIT_HISTORIES=1"
                            )
                        })?;
                    }
                    Ok(group.committed)
                };
                scope.spawn(run)
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| anyhow::bail!("a group panicked"))
        };
        threads.into_iter().map(join).collect::<Vec<Result<u64>>>()
    });
    let committed = results.into_iter().collect::<Result<Vec<_>>>()?;
    let enough = count < groups.len() as u64 || committed.iter().all(|cost| *cost > 0);
    ensure!(enough, "nothing was committed: {committed:?}");
    Ok(())
}

/// What a session has open.
#[derive(Default)]
struct Open {
    /// A list of grants for the transaction, and one for each savepoint.
    levels: Vec<Vec<Grant>>,
}

impl Open {
    /// Ends the transaction by this statement. Of what it was granted nothing counts where it rolls back.
    fn end(&mut self, commit: bool, done: &mut Vec<Grant>) -> &'static str {
        let grants = std::mem::take(&mut self.levels).into_iter().flatten();
        if commit {
            done.extend(grants);
            "COMMIT"
        } else {
            "ROLLBACK"
        }
    }
}

struct Group {
    kind: Kind,
    limiter: String,
    oracle: Oracle,
    epoch: Instant,
    sessions: Vec<Client>,
    committed: u64,
}

impl Group {
    fn new(server: &Server, kind: Kind, algorithm: &'static str, epoch: Instant) -> Result<Self> {
        let connect = |_| server.connect_to(NAME, "postgres");
        let mut sessions = (0..4).map(connect).collect::<Result<Vec<_>>>()?;
        for session in &mut sessions {
            // A worker may be at a ledger.
            session.batch_execute("SET lock_timeout = '10 s'")?;
        }
        let limiter = algorithm.to_owned();
        let mut group =
            Group { kind, limiter, oracle: Oracle::new(algorithm), epoch, sessions, committed: 0 };
        group.find_phase()?;
        Ok(group)
    }

    /// Windows are aligned to the server's clock: one that just began to be used says when it ends.
    fn find_phase(&mut self) -> Result<()> {
        let query = format!(
            "SELECT (extract(epoch FROM reset_after) * 1000000)::bigint FROM rl_check('{}', 'phase')",
            self.limiter
        );
        let before = self.epoch.elapsed();
        let left: i64 = self.sessions[0].ask(&query)?;
        let after = self.epoch.elapsed();
        let left = Duration::from_micros(left.unsigned_abs());
        self.oracle.set_phase(before + left, after + left);
        Ok(())
    }

    fn run(&mut self, seed: u64) -> Result<()> {
        let mut random = Random::new(seed);
        let sessions = 1 + random.below(4) as usize;
        let mut open: Vec<Open> = (0..sessions).map(|_| Open::default()).collect();
        let mut done = Vec::new();
        let mut log = Vec::new();
        for _ in 0..STEPS {
            let n = random.below(sessions as u64) as usize;
            let step = self.step(&mut random, n, &mut open[n], &mut done, seed)?;
            log.push(format!("{:?} {n}: {step}", self.epoch.elapsed()));
            if random.below(4) == 0 {
                std::thread::sleep(Duration::from_micros(random.below(8_000)));
            }
        }
        for (n, open) in open.iter_mut().enumerate().filter(|(_, open)| !open.levels.is_empty()) {
            let end = open.end(random.below(2) == 0, &mut done);
            self.sessions[n].batch_execute(end)?;
        }
        self.committed += done.iter().map(|grant| grant.cost).sum::<u64>();
        self.oracle.check(done).with_context(|| log.join("\n"))
    }

    /// Does something that the session can do now, and says what.
    fn step(
        &mut self,
        random: &mut Random,
        n: usize,
        open: &mut Open,
        done: &mut Vec<Grant>,
        seed: u64,
    ) -> Result<String> {
        let depth = open.levels.len();
        let statement = match random.below(16) {
            0..8 => return self.take(random, n, open, done, seed),
            // In a transaction it would keep locks.
            8 if self.kind == Kind::Durable && depth == 0 => {
                return Ok(format!("purge: {}", self.sessions[n].ask::<i64>("SELECT rl_purge()")?));
            }
            9 if self.kind == Kind::Durable => {
                let flood = format!(
                    "SELECT rl_peek('{}', 'other ' || n) FROM generate_series(1, 300) AS n",
                    self.limiter
                );
                self.sessions[n].batch_execute(&flood)?;
                return Ok("flood".into());
            }
            _ if depth == 0 => {
                open.levels.push(Vec::new());
                "BEGIN".to_owned()
            }
            10 | 11 if depth < 5 => {
                open.levels.push(Vec::new());
                format!("SAVEPOINT s{depth}")
            }
            12 if depth > 1 => {
                let inner = open.levels.pop().unwrap_or_default();
                open.levels[depth - 2].extend(inner);
                format!("RELEASE s{}", depth - 1)
            }
            13 if depth > 1 => {
                open.levels[depth - 1].clear();
                format!("ROLLBACK TO s{}", depth - 1)
            }
            end => open.end(end % 2 == 0, done).to_owned(),
        };
        self.sessions[n].batch_execute(&statement)?;
        Ok(statement)
    }

    fn take(
        &mut self,
        random: &mut Random,
        n: usize,
        open: &mut Open,
        done: &mut Vec<Grant>,
        seed: u64,
    ) -> Result<String> {
        let cost = 1 + random.below(4);
        let query = format!("SELECT rl_try_acquire('{}', 'key {seed}', {cost})", self.limiter);
        let before = self.epoch.elapsed();
        let granted: bool = self.sessions[n].ask(&query)?;
        let grant = Grant { before, after: self.epoch.elapsed(), cost };
        if granted {
            open.levels.last_mut().unwrap_or(done).push(grant);
        }
        Ok(format!("take {cost}: {granted}"))
    }
}
