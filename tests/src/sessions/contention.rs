//! Durable limiters under load: with folding, in all isolation levels, and with transactions of which half roll back.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{Ask, AGE};
use super::kinds::{Kind, ALGORITHMS};
use super::random::Random;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("durable_grants_never_exceed_the_quota_whatever_rolls_back", |bed| compete(bed, true)),
    ("durable_grants_never_exceed_the_quota_without_preload", |bed| compete(bed, false)),
    ("transactions_on_one_durable_key_wait_for_nobody", wait_for_nobody),
    ("keys_locked_in_a_circle_without_preload_end_in_a_deadlock_error", locked_in_a_circle),
];

const NAME: &str = "contention";
const SESSIONS: u64 = 6;
const QUOTA: i64 = 300;
const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

fn connect(server: &Server) -> Result<Client> {
    server.connect_to(NAME, "postgres")
}

/// What has been committed, as far as the client knows, and what may have been.
#[derive(Default)]
struct Committed {
    surely: AtomicI64,
    perhaps: AtomicI64,
}

/// Transactions that take some, in and out of savepoints; about half of them, and of the savepoints, roll back.
fn transactions(
    session: &mut Client,
    limiter: &str,
    level: &str,
    random: &mut Random,
    all: &Committed,
) -> Result<()> {
    let mut take = |session: &mut Client| -> Result<i64> {
        let cost = 1 + random.below(3) as i64;
        let query = format!("SELECT rl_try_acquire('{limiter}', 'key', {cost})");
        Ok(if session.ask::<bool>(&query)? { cost } else { 0 })
    };
    for n in 0..40 {
        session.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
        let mut taken = take(session)?;
        if n % 3 == 0 {
            session.batch_execute("SAVEPOINT s")?;
            let inner = take(session)?;
            let keep = n % 2 == 0;
            session.batch_execute(if keep { "RELEASE s" } else { "ROLLBACK TO s" })?;
            taken += if keep { inner } else { 0 };
        }
        if n % 7 == 0 {
            // Others come in between.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        if (n / 2) % 2 == 0 {
            session.batch_execute("ROLLBACK")?;
            continue;
        }
        all.perhaps.fetch_add(taken, Ordering::SeqCst);
        session.batch_execute("COMMIT").with_context(|| level.to_owned())?;
        let committed = all.surely.fetch_add(taken, Ordering::SeqCst) + taken;
        ensure!(committed <= QUOTA, "{limiter}: {committed} of {QUOTA} were committed");
    }
    Ok(())
}

fn compete(bed: &Bed, preload: bool) -> Result<()> {
    let builder = bed.private().preload(preload).setting("ratelimit.purge_interval", "1 d");
    let mut server = builder.start()?;
    Kind::Durable.create_all(&mut Database::new(&server, NAME)?.connect()?, QUOTA)?;
    for (round, limiter) in ALGORITHMS.into_iter().enumerate() {
        let (all, done) = (Committed::default(), AtomicBool::new(false));
        std::thread::scope(|scope| -> Result<()> {
            let (all, server, done) = (&all, &server, &done);
            let keeper = scope.spawn(move || -> Result<()> {
                let mut session = connect(server)?;
                while !done.load(Ordering::Relaxed) {
                    session.ask::<i64>("SELECT rl_purge()").context("purging")?;
                }
                Ok(())
            });
            let worker = |n: u64| {
                let mut random = Random::new(1_000 * round as u64 + n);
                let level = LEVELS[n as usize % LEVELS.len()];
                transactions(&mut connect(server)?, limiter, level, &mut random, all)
            };
            let threads: Vec<_> = (0..SESSIONS).map(|n| scope.spawn(move || worker(n))).collect();
            let ended: Vec<Result<()>> = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a session panicked")))
                .collect();
            done.store(true, Ordering::Relaxed);
            keeper.join().ok().context("the keeper panicked")??;
            ended.into_iter().collect()
        })?;
        let (committed, perhaps) = (all.surely.into_inner(), all.perhaps.into_inner());
        ensure!(committed == perhaps, "{limiter}: {committed} and {perhaps}");
        let left = connect(&server)?.left(limiter, "key")?;
        let missing = QUOTA - committed - left;
        let may_miss = if limiter == "token_bucket" { LOSS } else { 0 };
        ensure!((0..=may_miss).contains(&missing), "{limiter}: {left} left after {committed}");
        // What the tables know is what was committed, and nothing is lost there.
        server.restart(Stop::Immediate)?;
        let left = connect(&server)?.left(limiter, "key")?;
        ensure!(left == QUOTA - committed, "{limiter}: {left} left after {committed} and a crash");
        let rest: i64 =
            connect(&server)?.ask(&format!("SELECT rl_take('{limiter}', 'key', 1000)"))?;
        ensure!(rest == left, "{limiter}: {rest} taken of {left}");
    }
    Ok(())
}

/// What a bucket served while transactions had taken from it may be missing for as long: that is less than a token.
const LOSS: i64 = 1;

fn wait_for_nobody(bed: &Bed) -> Result<()> {
    let database = bed.database("wait_for_nobody")?;
    let mut admin = database.connect()?;
    Kind::Durable.create_all(&mut admin, 10)?;
    for limiter in ALGORITHMS {
        // All are open at the same time, and end in another order than they began.
        let mut sessions = LEVELS
            .into_iter()
            .cycle()
            .take(9)
            .map(|level| {
                let mut session = database.connect()?;
                session.batch_execute(&format!(
                    "SET lock_timeout = '5 s'; BEGIN ISOLATION LEVEL {level}; SELECT rl_enforce('{limiter}', 'key')"
                ))?;
                Ok(session)
            })
            .collect::<Result<Vec<_>>>()?;
        ensure!(admin.left(limiter, "key")? == 1);
        for (n, session) in sessions.iter_mut().rev().enumerate() {
            session.batch_execute(if n % 3 == 0 { "ROLLBACK" } else { "COMMIT" })?;
        }
        let left = admin.left(limiter, "key")?;
        ensure!(left == 4, "{limiter}: {left} left");
    }
    let _ = AGE;
    Ok(())
}

fn locked_in_a_circle(bed: &Bed) -> Result<()> {
    let server = bed.private().preload(false).setting("deadlock_timeout", "100 ms").start()?;
    let mut one = Database::new(&server, NAME)?.connect()?;
    Kind::Durable.create_all(&mut one, 10)?;
    let mut other = connect(&server)?;
    let take = |key: &str| format!("SELECT rl_enforce('token_bucket', '{key}')");
    one.batch_execute(&format!("BEGIN; {}", take("a")))?;
    other.batch_execute(&format!("BEGIN; {}", take("b")))?;
    let failed = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.batch_execute(&take("b")).is_err());
        let failed = other.batch_execute(&take("a")).is_err();
        let _ = other.batch_execute(if failed { "ROLLBACK" } else { "COMMIT" });
        let also = waiting.join().unwrap_or(true);
        i32::from(failed) + i32::from(also)
    });
    one.batch_execute("COMMIT")?;
    // With shared memory nobody waits.
    ensure!(failed <= 1, "both failed");
    let left = (one.left("token_bucket", "a")?, one.left("token_bucket", "b")?);
    ensure!(left == if failed == 0 { (8, 8) } else { (9, 9) }, "{left:?} left");
    Ok(())
}
