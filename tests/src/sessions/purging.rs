//! What purging removes of the counts, who may do it, and whom it must leave alone.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{eventually, Ask, AGE};
use super::durability::ledgers;
use super::kinds::{Kind, ALGORITHMS};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_dropped_limiter_is_purged_and_forgotten", a_dropped_limiter_is_purged),
    ("expired_counts_are_purged", expired_counts_are_purged),
    ("purging_collides_with_no_session", |bed| collides_with_no_session(bed, true)),
    ("purging_collides_with_no_session_without_preload", |bed| {
        collides_with_no_session(bed, false)
    }),
    ("purging_many_keys_needs_few_locks_without_preload", many_keys_need_few_locks),
    ("an_administrator_can_purge", an_administrator_can_purge),
    ("purging_in_a_read_only_transaction_leaves_tables_alone", purging_read_only),
    ("purging_in_a_transaction_block_makes_nobody_wait", purging_in_a_transaction_block),
];

const NAME: &str = "purging";

/// A server whose worker leaves house-keeping to the test, and a session.
pub fn start(bed: &Bed, preload: bool) -> Result<(Server, Client)> {
    let server =
        bed.private().preload(preload).setting("ratelimit.purge_interval", "1 d").start()?;
    let session = Database::new(&server, NAME)?.connect()?;
    Ok((server, session))
}

pub fn connect(server: &Server) -> Result<Client> {
    server.connect_to(NAME, "postgres")
}

pub fn durable(session: &mut Client, name: &str, rates: &str) -> Result<()> {
    Kind::Durable.create(session, name, rates, "token_bucket")
}

pub fn counts(session: &mut Client) -> Result<i64> {
    session.ask("SELECT count(*) FROM rl_counts")
}

fn a_dropped_limiter_is_purged(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, true)?;
    durable(&mut session, "api", &format!("10 per {AGE}"))?;
    let mut open = connect(&server)?;
    open.batch_execute("BEGIN; SELECT rl_enforce('api', 'key', 3)")?;
    session.batch_execute("SELECT rl_enforce('api', 'key', 2)")?;
    session.batch_execute("SELECT rl_purge()")?;
    session.batch_execute("SELECT rl_enforce('api', 'key', 2); SELECT rl_drop_limiter('api')")?;
    durable(&mut session, "api", &format!("10 per {AGE}"))?;
    open.batch_execute("COMMIT")?;
    ensure!(
        session.left("api", "key")? == 10,
        "the new limiter found what was left of the old one"
    );
    session.batch_execute("SELECT rl_enforce('api', 'other', 1)")?;
    for _ in 0..3 {
        session.ask::<i64>("SELECT rl_purge()")?;
    }
    ensure!(ledgers(&mut session)? == (0, 0) && counts(&mut session)? == 1, "rows are left");
    server.restart(Stop::Immediate)?;
    let mut session = connect(&server)?;
    ensure!(session.left("api", "key")? == 10 && session.left("api", "other")? == 9);
    Ok(())
}

fn expired_counts_are_purged(bed: &Bed) -> Result<()> {
    let database = bed.database("expired_counts")?;
    let mut session = database.connect()?;
    for name in ALGORITHMS {
        Kind::Durable.create(&mut session, name, "10 per 100 ms", name)?;
        session.batch_execute(&format!(
            "SELECT rl_enforce('{name}', 'key ' || n) FROM generate_series(1, 50) AS n"
        ))?;
    }
    durable(&mut session, "slow", &format!("10 per {AGE}"))?;
    session.batch_execute("SELECT rl_enforce('slow', 'key')")?;
    eventually("only what counts is left", || {
        session.ask::<i64>("SELECT rl_purge()")?;
        Ok(counts(&mut session)? == 1)
    })?;
    ensure!(session.left("slow", "key")? == 9);
    Ok(())
}

fn collides_with_no_session(bed: &Bed, preload: bool) -> Result<()> {
    let (server, mut session) = start(bed, preload)?;
    // Keys that have been as good as new for more than a second when they are taken again: what is purged is what is written.
    durable(&mut session, "short", "1000 per 100 ms")?;
    durable(&mut session, "long", &format!("100000 per {AGE}"))?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = |n: i64| {
            let mut session = connect(&server)?;
            let mut taken = 0;
            while !done.load(Ordering::Relaxed) {
                taken += 1;
                session.batch_execute(&format!(
                    "SELECT rl_enforce('short', 'key ' || {n} || {taken} % 1500); SELECT rl_enforce('long', 'key {n}')"
                ))?;
            }
            Ok::<_, anyhow::Error>(taken)
        };
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || worker(n))).collect();
        let start = std::time::Instant::now();
        let mut purge = || {
            while start.elapsed().as_secs() < 8 {
                session.ask::<i64>("SELECT rl_purge()").context("purging")?;
            }
            Ok(())
        };
        let purged: Result<()> = purge();
        done.store(true, Ordering::Relaxed);
        for (n, thread) in threads.into_iter().enumerate() {
            let taken = thread.join().ok().context("a session panicked")??;
            let left = session.left("long", &format!("key {n}"))?;
            ensure!(left == 100_000 - taken, "{left} left after {taken} were taken");
        }
        purged
    })
}

fn many_keys_need_few_locks(bed: &Bed) -> Result<()> {
    let (_server, mut session) = start(bed, false)?;
    durable(&mut session, "short", "10 per 1 ms")?;
    // A transaction each: what one transaction takes of many keys has to be locked.
    session.batch_execute(
        "DO $$ BEGIN
             FOR n IN 1..60000 LOOP PERFORM rl_enforce('short', 'key ' || n); COMMIT; END LOOP;
         END $$",
    )?;
    eventually("all are purged", || {
        session.ask::<i64>("SELECT rl_purge()")?;
        Ok(counts(&mut session)? == 0)
    })
}

fn an_administrator_can_purge(bed: &Bed) -> Result<()> {
    let database = bed.database("administrator_purges")?;
    let mut session = database.connect()?;
    session.batch_execute("CREATE ROLE purger LOGIN; SELECT rl_grant_admin('purger')")?;
    durable(&mut session, "api", &format!("10 per {AGE}"))?;
    session.batch_execute("SELECT rl_enforce('api', 'key')")?;
    let mut purger = database.connect_as("purger")?;
    ensure!(purger.ask::<i64>("SELECT rl_purge()")? == 1, "nothing was folded");
    purger.batch_execute(
        "SELECT rl_enforce('api', 'key'), rl_reset('api', 'other'), rl_refund('api', 'key')",
    )?;
    purger.batch_execute("SELECT rl_reset_all('api')")?;
    ensure!(session.left("api", "key")? == 10);
    Ok(())
}

fn purging_read_only(bed: &Bed) -> Result<()> {
    let (_server, mut session) = start(bed, true)?;
    durable(&mut session, "short", "10 per 1 ms")?;
    session.batch_execute("SELECT rl_enforce('short', 'key')")?;
    let purge = "BEGIN READ ONLY; SELECT rl_purge(); COMMIT";
    session.batch_execute(purge)?;
    ensure!(ledgers(&mut session)? != (0, 0), "a ledger was folded");
    session.batch_execute("SELECT rl_purge()")?;
    ensure!(counts(&mut session)? == 1);
    std::thread::sleep(std::time::Duration::from_secs(2));
    session.batch_execute(purge)?;
    ensure!(counts(&mut session)? == 1, "a count was purged");
    Ok(())
}

fn purging_in_a_transaction_block(bed: &Bed) -> Result<()> {
    let (server, mut session) = start(bed, true)?;
    durable(&mut session, "short", "10 per 1 ms")?;
    durable(&mut session, "api", &format!("10 per {AGE}"))?;
    session.batch_execute("SELECT rl_enforce('short', 'key')")?;
    ensure!(session.ask::<i64>("SELECT rl_purge()")? == 1, "nothing was folded");
    session.batch_execute("SELECT rl_enforce('api', 'key')")?;
    let mut other = connect(&server)?;
    other.batch_execute("SET lock_timeout = '2 s'")?;
    eventually("what has expired is removed", || {
        session.batch_execute("BEGIN")?;
        let removed: i64 = session.ask("SELECT rl_purge()")?;
        other.batch_execute("SELECT rl_enforce('api', gen_random_uuid()::text)")?;
        session.batch_execute("COMMIT")?;
        Ok(removed == 1)
    })?;
    ensure!(counts(&mut session)? == 0 && ledgers(&mut session)? != (0, 0), "it was folded");
    ensure!(session.ask::<i64>("SELECT rl_purge()")? > 0, "nothing was folded");
    Ok(())
}
