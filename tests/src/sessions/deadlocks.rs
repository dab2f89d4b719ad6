//! Deadlocks in which sessions wait for concurrency slots: one gets an error, and the others go on.

use std::thread::ScopedJoinHandle;

use anyhow::{ensure, Context, Result};
use postgres::error::DbError;
use postgres::Client;
use testbed::Server;

use super::ask::{ensure_code, eventually, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_slot_against_a_row_is_a_deadlock", |bed| slot_against_row(bed, true)),
    ("a_slot_against_a_row_is_a_deadlock_without_preload", |bed| slot_against_row(bed, false)),
    ("a_slot_against_a_slot_is_a_deadlock", |bed| slot_against_slot(bed, true)),
    ("a_slot_against_a_slot_is_a_deadlock_without_preload", |bed| slot_against_slot(bed, false)),
    ("a_slot_against_itself_is_a_deadlock", |bed| slot_against_itself(bed, true)),
    ("a_slot_against_itself_is_a_deadlock_without_preload", |bed| slot_against_itself(bed, false)),
    ("a_holder_that_goes_on_is_no_deadlock", |bed| one_goes_on(bed, true)),
    ("a_holder_that_goes_on_is_no_deadlock_without_preload", |bed| one_goes_on(bed, false)),
    ("a_lease_is_no_deadlock", lease),
];

/// A server that looks for deadlocks soon, with limiters of one and of two slots.
fn start(bed: &Bed, preload: bool) -> Result<Server> {
    let builder = bed.private().preload(preload).setting("deadlock_timeout", "50ms");
    let server = builder.start()?;
    Database::new(&server, "deadlocks")?;
    session(&server)?.batch_execute(
        "SELECT rl_create_limiter('one', storage => 'durable', max_concurrent => 1);
         SELECT rl_create_limiter('two', storage => 'durable', max_concurrent => 2);
         CREATE TABLE rows AS SELECT 1 AS n",
    )?;
    Ok(server)
}

fn session(server: &Server) -> Result<Client> {
    server.connect_to("deadlocks", "postgres")
}

const ROW: &str = "UPDATE rows SET n = n";

fn slot(limiter: &str, key: &str) -> String {
    format!("SELECT 1 / rl_slot('{limiter}', '{key}')::int")
}

/// Waits until so many processes do.
fn waiting(admin: &mut Client, sessions: i64) -> Result<()> {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event IS NOT NULL";
    eventually("all wait", || Ok(admin.ask::<i64>(waiting)? == sessions))
}

/// What became of two that wait for each other: the error of one, and the other goes on when that one has rolled back.
fn one_of(
    one: (&mut Client, &str),
    other: (&mut Client, &str),
    admin: &mut Client,
) -> Result<DbError> {
    let pids = [one.0.pid()?, other.0.pid()?];
    let run = |(session, query): (&mut Client, &str)| -> Result<Option<DbError>> {
        let answer = session.batch_execute(query);
        session.batch_execute("ROLLBACK")?;
        match answer {
            Ok(()) => Ok(None),
            Err(error) => Ok(Some(error.as_db_error().cloned().context("lost")?)),
        }
    };
    let errors = std::thread::scope(|scope| {
        let join = |thread: ScopedJoinHandle<'_, Result<_>>| thread.join().ok().context("died")?;
        let first = scope.spawn(|| run(one));
        waiting(admin, 1)?;
        let second = scope.spawn(|| run(other));
        anyhow::Ok([join(first)?, join(second)?])
    })?;
    let [error] = <[DbError; 1]>::try_from(errors.into_iter().flatten().collect::<Vec<_>>())
        .map_err(|errors| anyhow::anyhow!("not one error: {errors:?}"))?;
    ensure_code(&error, "40P01")?;
    let detail = error.detail().unwrap_or_default();
    for pid in pids {
        ensure!(detail.contains(&format!("Process {pid} waits for a ")), "{detail}");
        ensure!(detail.contains(&format!("blocked by process {pid}.")), "{detail}");
    }
    Ok(error)
}

fn slot_against_row(bed: &Bed, preload: bool) -> Result<()> {
    let server = start(bed, preload)?;
    let (mut admin, mut one, mut other) = (session(&server)?, session(&server)?, session(&server)?);
    let wait = slot("one", "key");
    for slot_first in [true, false] {
        one.batch_execute(&format!("BEGIN; {wait}"))?;
        other.batch_execute(&format!("BEGIN; {ROW}"))?;
        let (one, other) = ((&mut one, ROW), (&mut other, wait.as_str()));
        let (first, second) = if slot_first { (other, one) } else { (one, other) };
        let error = one_of(first, second, &mut admin)?;
        let detail = error.detail().unwrap_or_default();
        ensure!(detail.contains(" waits for a concurrency slot; "), "{detail}");
        ensure!(detail.contains(" waits for a lock; "), "{detail}");
    }
    Ok(())
}

fn slot_against_slot(bed: &Bed, preload: bool) -> Result<()> {
    let server = start(bed, preload)?;
    let (mut admin, mut one, mut other) = (session(&server)?, session(&server)?, session(&server)?);
    let [a, b] = ["a", "b"].map(|key| slot("one", key));
    for _ in 0..5 {
        one.batch_execute(&format!("BEGIN; {a}"))?;
        other.batch_execute(&format!("BEGIN; {b}"))?;
        one_of((&mut one, &b), (&mut other, &a), &mut admin)?;
    }
    Ok(())
}

fn slot_against_itself(bed: &Bed, preload: bool) -> Result<()> {
    let server = start(bed, preload)?;
    let mut one = session(&server)?;
    let slot = slot("one", "key");
    ensure_code(&one.refused(&format!("{slot}; {slot}"))?, "40P01")?;
    one.batch_execute(&slot)?;
    Ok(())
}

/// One holder waits for a row of who waits for a slot, and the other is idle.
fn one_goes_on(bed: &Bed, preload: bool) -> Result<()> {
    let server = start(bed, preload)?;
    let (mut admin, mut one, mut other) = (session(&server)?, session(&server)?, session(&server)?);
    let mut idle = session(&server)?;
    let wait = slot("two", "key");
    for session in [&mut one, &mut idle] {
        session.batch_execute(&format!("BEGIN; {wait}"))?;
    }
    other.batch_execute(&format!("BEGIN; {ROW}"))?;
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| one.batch_execute(ROW));
        waiting(&mut admin, 1)?;
        let timeout = "SELECT rl_slot('two', 'key', '500 ms')";
        ensure!(!other.ask::<bool>(timeout)?, "it got a slot");
        let waiter = scope.spawn(move || {
            other.batch_execute(&wait)?;
            other.batch_execute("COMMIT")
        });
        waiting(&mut admin, 2)?;
        idle.batch_execute("COMMIT")?;
        waiter.join().ok().context("died")??;
        blocked.join().ok().context("died")??;
        Ok(())
    })
}

/// A lease ends by itself, or by anybody who knows its token.
fn lease(bed: &Bed) -> Result<()> {
    let server = start(bed, true)?;
    let (mut admin, mut one, mut other) = (session(&server)?, session(&server)?, session(&server)?);
    admin.batch_execute("SELECT rl_create_limiter('leases', max_concurrent => 2)")?;
    let wait = slot("leases", "key");
    admin.batch_execute("SELECT 1 / (rl_try_lease('leases', 'key', '1 s') IS NOT NULL)::int")?;
    one.batch_execute(&format!("BEGIN; {wait}"))?;
    other.batch_execute(&format!("BEGIN; {ROW}"))?;
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| one.batch_execute(ROW));
        waiting(&mut admin, 1)?;
        other.batch_execute(&wait)?;
        other.batch_execute("COMMIT")?;
        blocked.join().ok().context("died")??;
        Ok(())
    })
}
