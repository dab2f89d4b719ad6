//! With `on_rollback` = `keep`, what was taken stays taken however its transaction ends.

use anyhow::{anyhow, ensure, Result};
use postgres::Client;

use super::ask::{ensure_code, eventually, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("rollback_keeps_what_was_taken", rollback_keeps_what_was_taken),
    ("rollback_to_savepoint_keeps_what_was_taken", rollback_to_savepoint_keeps_what_was_taken),
    ("an_exception_block_keeps_what_was_taken", an_exception_block_keeps_what_was_taken),
    ("an_enforced_denial_keeps_what_others_took", an_enforced_denial_keeps_what_others_took),
    ("statement_timeout_keeps_what_was_taken", statement_timeout_keeps_what_was_taken),
    ("a_cancelled_statement_keeps_what_was_taken", |bed| {
        interrupted(bed, "cancelled", "pg_cancel_backend")
    }),
    ("a_terminated_session_keeps_what_was_taken", |bed| {
        interrupted(bed, "terminated", "pg_terminate_backend")
    }),
    ("a_lost_connection_keeps_what_was_taken", a_lost_connection_keeps_what_was_taken),
];

/// Takes one, and then has no end.
const TAKE_AND_STAY: &str =
    "DO $$ BEGIN PERFORM rl_try_acquire('api', 'key'); PERFORM pg_sleep(60); END $$";

/// A session, and a limiter of 10.
fn session<'a>(bed: &'a Bed, name: &str) -> Result<(Database<'a>, Client)> {
    let database = bed.database(name)?;
    let mut session = database.connect()?;
    session.limiter("api", 10)?;
    Ok((database, session))
}

fn ensure_left(session: &mut Client, expected: i64) -> Result<()> {
    let left = session.left("api", "key")?;
    ensure!(left == expected, "{left} left instead of {expected}");
    Ok(())
}

fn rollback_keeps_what_was_taken(bed: &Bed) -> Result<()> {
    let (_database, mut session) = session(bed, "rollback")?;
    session.batch_execute(
        "BEGIN; SELECT rl_try_acquire('api', 'key'); SELECT rl_penalize('api', 'key', 3);
         SELECT rl_refund('api', 'key', 1); ROLLBACK",
    )?;
    ensure_left(&mut session, 7)?;
    session.refused("SELECT rl_try_acquire('api', 'key'), 1 / (random() * 0)::int")?;
    ensure_left(&mut session, 6)
}

fn rollback_to_savepoint_keeps_what_was_taken(bed: &Bed) -> Result<()> {
    let (_database, mut session) = session(bed, "rollback_to_savepoint")?;
    session.batch_execute(
        "BEGIN; SAVEPOINT s; SELECT rl_try_acquire('api', 'key', 4); ROLLBACK TO s",
    )?;
    ensure_left(&mut session, 6)?;
    session.batch_execute("COMMIT")?;
    ensure_left(&mut session, 6)
}

fn an_exception_block_keeps_what_was_taken(bed: &Bed) -> Result<()> {
    let (_database, mut session) = session(bed, "exception_block")?;
    session.batch_execute(
        "DO $$
         BEGIN
             PERFORM rl_try_acquire('api', 'key', 4);
             RAISE 'wrong password';
         EXCEPTION WHEN OTHERS THEN
             PERFORM rl_try_acquire('api', 'key');
         END $$",
    )?;
    ensure_left(&mut session, 5)
}

fn an_enforced_denial_keeps_what_others_took(bed: &Bed) -> Result<()> {
    let (_database, mut session) = session(bed, "enforced_denial")?;
    let error = session
        .refused("BEGIN; SELECT rl_enforce('api', 'key', 4); SELECT rl_enforce('api', 'key', 7)")?;
    ensure_code(&error, "PT429")?;
    session.batch_execute("ROLLBACK")?;
    ensure_left(&mut session, 6)
}

fn statement_timeout_keeps_what_was_taken(bed: &Bed) -> Result<()> {
    let (database, mut observer) = session(bed, "statement_timeout")?;
    let mut session = database.connect()?;
    session.batch_execute("SET statement_timeout = '1 s'")?;
    ensure_code(&session.refused(TAKE_AND_STAY)?, "57014")?;
    ensure_left(&mut observer, 9)
}

fn interrupted(bed: &Bed, name: &str, function: &str) -> Result<()> {
    let (database, mut observer) = session(bed, name)?;
    let mut session = database.connect()?;
    let pid = session.pid()?;
    std::thread::scope(|scope| {
        // Without the code: the connection of a terminated session may close before its error is read.
        let thread = scope.spawn(move || session.batch_execute(TAKE_AND_STAY).is_err());
        eventually("one is taken", || Ok(observer.left("api", "key")? == 9))?;
        ensure!(observer.ask::<bool>(&format!("SELECT {function}({pid})"))?);
        let failed = thread.join().map_err(|_| anyhow!("the session panicked"))?;
        ensure!(failed, "the session was not interrupted");
        Ok(())
    })?;
    ensure_left(&mut observer, 9)
}

fn a_lost_connection_keeps_what_was_taken(bed: &Bed) -> Result<()> {
    let (database, mut observer) = session(bed, "lost_connection")?;
    let mut session = database.connect()?;
    let pid = session.pid()?;
    session.batch_execute("BEGIN; SELECT rl_try_acquire('api', 'key')")?;
    drop(session);
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    eventually("the session is gone", || observer.ask(&gone))?;
    ensure_left(&mut observer, 9)
}
