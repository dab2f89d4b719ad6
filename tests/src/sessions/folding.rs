//! What folding ledgers must leave alone, and whom.

use anyhow::{ensure, Context, Result};
use testbed::Stop;

use super::ask::{Ask, AGE};
use super::durability::ledgers;
use super::kinds::{Kind, ALGORITHMS};
use super::purging::{connect, counts, durable, start};
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("a_limiter_created_while_folding_waits_is_counted", created_while_folding_waits),
    ("ledgers_from_preloaded_times_are_purged_without_preload", from_preloaded_times),
    ("purging_that_is_rolled_back_loses_nothing", purging_that_is_rolled_back),
    ("folding_obeys_overrides_until_they_end", folding_obeys_overrides),
    ("a_reader_of_the_tables_does_not_stop_decisions", a_reader_of_the_tables),
];

fn created_while_folding_waits(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, true)?;
    durable(&mut session, "old", &format!("10 per {AGE}"))?;
    session.batch_execute("SELECT rl_enforce('old', 'key')")?;
    // Its transaction has chosen a ledger, which the next folding takes.
    let mut long = connect(&server)?;
    long.batch_execute("BEGIN; SELECT rl_enforce('old', 'key')")?;
    let mut keeper = connect(&server)?;
    std::thread::scope(|scope| {
        let folding = scope.spawn(move || keeper.ask::<i64>("SELECT rl_purge()"));
        std::thread::sleep(std::time::Duration::from_millis(20));
        durable(&mut session, "new", &format!("10 per {AGE}"))?;
        long.batch_execute("SELECT rl_enforce('new', 'key', 3); COMMIT")?;
        folding.join().ok().context("folding panicked")??;
        session.ask::<i64>("SELECT rl_purge()")
    })?;
    server.restart(Stop::Immediate)?;
    let mut session = connect(&server)?;
    let left = (session.left("old", "key")?, session.left("new", "key")?);
    ensure!(left == (8, 7), "{left:?} left");
    Ok(())
}

fn folding_obeys_overrides(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, true)?;
    for name in ALGORITHMS {
        Kind::Durable.create(&mut session, name, &format!("100 per {AGE}"), name)?;
        session.batch_execute(&format!(
            "INSERT INTO rl_overrides (limiter, key, action, quota, expires_at)
                 VALUES ('{name}', 'vip', 'limit', 200, 'infinity'), ('{name}', 'past', 'limit', 2, '2020-01-01');
             SELECT rl_take('{name}', 'vip', 150), rl_take('{name}', 'past', 60)"
        ))?;
    }
    session.ask::<i64>("SELECT rl_purge()")?;
    ensure!(ledgers(&mut session)? == (0, 0), "nothing was folded");
    server.restart(Stop::Immediate)?;
    let mut session = connect(&server)?;
    for name in ALGORITHMS {
        let left = (session.left(name, "vip")?, session.left(name, "past")?);
        ensure!(left == (50, 40), "{name}: {left:?} left");
    }
    Ok(())
}

fn from_preloaded_times(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, true)?;
    durable(&mut session, "short", "10 per 1 ms")?;
    durable(&mut session, "long", &format!("10 per {AGE}"))?;
    session.batch_execute("SELECT rl_enforce('short', 'key'), rl_enforce('long', 'key', 2)")?;
    session.batch_execute("SELECT rl_enforce('short', 'key'), rl_enforce('long', 'other', 3)")?;
    server.stop(Stop::Fast)?;
    let path = server.pgdata().join("postgresql.conf");
    let settings = std::fs::read_to_string(&path)?;
    std::fs::write(&path, format!("{settings}\nshared_preload_libraries = ''\n"))?;
    server.start_again()?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut session = connect(&server)?;
    ensure!(session.left("long", "key")? == 8, "{} left", session.left("long", "key")?);
    session.batch_execute("SELECT rl_enforce('long', 'key', 1)")?;
    // On PostgreSQL 17 and later memory is shared without preload, too, and folding takes two turns.
    for _ in 0..2 {
        session.ask::<i64>("SELECT rl_purge()")?;
    }
    ensure!(ledgers(&mut session)? == (0, 0) && counts(&mut session)? == 2, "rows are left");
    let left = (session.left("long", "key")?, session.left("long", "other")?);
    ensure!(left == (7, 7), "{left:?} left");
    Ok(())
}

fn purging_that_is_rolled_back(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, true)?;
    for name in ALGORITHMS {
        Kind::Durable.create(&mut session, name, &format!("100 per {AGE}"), name)?;
    }
    let mut taken = 0;
    let all = ["PERFORM rl_purge();", "PERFORM rl_purge(); PERFORM rl_purge();"];
    for purge in all {
        for end in ["RAISE 'no';", ""] {
            for name in ALGORITHMS {
                session.batch_execute(&format!("SELECT rl_enforce('{name}', 'key', 2)"))?;
            }
            // One statement: in a transaction block nothing would be folded.
            let done = session.batch_execute(&format!("DO $$ BEGIN {purge} {end} END $$"));
            ensure!(done.is_ok() == end.is_empty(), "{done:?}");
            for name in ALGORITHMS {
                session.batch_execute(&format!("SELECT rl_enforce('{name}', 'key', 1)"))?;
            }
            taken += 3;
            server.restart(Stop::Immediate)?;
            session = connect(&server)?;
            for name in ALGORITHMS {
                let left = session.left(name, "key")?;
                ensure!(left == 100 - taken, "{name}: {left} left after {taken}, {purge}, {end}");
            }
        }
    }
    Ok(())
}

/// A report on the tables, say, that takes long.
fn a_reader_of_the_tables(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, true)?;
    durable(&mut session, "api", &format!("100 per {AGE}"))?;
    let mut reader = connect(&server)?;
    for lock in ["rl_ledger_0, rl_ledger_1, rl_counts", "rl_counts"] {
        session.batch_execute("SELECT rl_enforce('api', 'key')")?;
        reader.batch_execute(&format!("BEGIN; LOCK TABLE {lock} IN ACCESS SHARE MODE"))?;
        for _ in 0..3 {
            // What cannot be folded now is folded later.
            session.ask::<i64>("SELECT rl_purge()").context(lock)?;
            session.batch_execute("SELECT rl_enforce('api', 'key'), rl_peek('api', 'new key')")?;
        }
        reader.batch_execute("COMMIT")?;
    }
    ensure!(session.left("api", "key")? == 92);
    for _ in 0..2 {
        session.ask::<i64>("SELECT rl_purge()")?;
    }
    ensure!(ledgers(&mut session)? == (0, 0));
    server.restart(Stop::Immediate)?;
    ensure!(connect(&server)?.left("api", "key")? == 92);
    Ok(())
}
