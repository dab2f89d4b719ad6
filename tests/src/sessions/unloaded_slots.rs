//! Concurrency slots of durable limiters on a server that did not load the library at its start. Before PostgreSQL 17 its sessions share
//! no memory, and the lock manager decides alone; the answers are the same.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::Server;

use super::ask::{ensure_code, eventually, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("without_preload_slots_are_held_until_their_owner_ends", held_until_their_owner_ends),
    ("without_preload_slots_of_memory_limiters_work_or_say_what_to_do", memory_limiters),
    ("without_preload_a_slot_goes_with_a_rate", slot_goes_with_a_rate),
    ("without_preload_a_lowered_max_concurrent_counts_all_holders", lowered),
    ("without_preload_a_slot_is_waited_for", waited_for),
    ("without_preload_waiters_hear_of_changed_definitions", changed_definitions),
    ("without_preload_the_lock_table_is_not_filled", lock_table),
    ("without_preload_never_too_many_hold_a_slot", never_too_many),
];

/// A server with a durable limiter of two slots.
pub fn start(bed: &Bed, settings: &[(&str, &str)]) -> Result<Server> {
    let builder = bed.private().preload(false).setting("max_prepared_transactions", "2");
    let server =
        settings.iter().fold(builder, |builder, (name, value)| builder.setting(name, value));
    let server = server.start()?;
    Database::new(&server, "bare")?;
    session(&server)?.batch_execute(
        "SELECT rl_create_limiter('export', storage => 'durable', max_concurrent => 2)",
    )?;
    Ok(server)
}

pub fn session(server: &Server) -> Result<Client> {
    server.connect_to("bare", "postgres")
}

const TRY: &str = "SELECT rl_try_slot('export', 'key')";
const TRY_SESSION: &str = "SELECT rl_try_session_slot('export', 'key')";
const RELEASE: &str = "SELECT rl_release_session_slot('export', 'key')";

/// A query's answer yes or no.
pub fn says(session: &mut Client, query: &str) -> Result<bool> {
    session.ask(query)
}

pub fn free(session: &mut Client) -> Result<i64> {
    session
        .ask("SELECT CASE WHEN allowed THEN remaining + 1 ELSE 0 END FROM rl_peek('export', 'key')")
}

fn held_until_their_owner_ends(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let (mut one, mut other) = (session(&server)?, session(&server)?);
    for end in ["COMMIT", "ROLLBACK", "ROLLBACK TO s", "SELECT 1/0"] {
        one.batch_execute("BEGIN; SAVEPOINT s")?;
        ensure!(
            says(&mut one, TRY)? && says(&mut one, TRY)? && !says(&mut one, TRY)?,
            "each call takes one"
        );
        ensure!(!says(&mut other, TRY)?, "there are two for all sessions");
        ensure!(says(&mut other, "SELECT rl_try_slot('export', 'another key')")?);
        let _ = one.batch_execute(end);
        // An error is sent before the transaction is rolled back.
        one.batch_execute("")?;
        ensure!(free(&mut other)? == 2, "after {end}");
        one.batch_execute("ROLLBACK")?;
    }

    ensure!(says(&mut one, TRY_SESSION)? && says(&mut other, TRY_SESSION)?);
    ensure!(says(&mut one, RELEASE)? && !says(&mut one, RELEASE)?, "it had one of its own");
    ensure!(free(&mut one)? == 1);
    for unlock in ["DISCARD ALL", "SELECT pg_advisory_unlock_all()"] {
        ensure!(says(&mut one, TRY_SESSION)?);
        one.batch_execute(unlock)?;
        ensure!(free(&mut other)? == 1 && !says(&mut one, RELEASE)?, "after {unlock}");
    }
    drop(other);
    eventually("the slot of a session that ended is free", || Ok(free(&mut one)? == 2))?;

    one.batch_execute("BEGIN")?;
    ensure!(says(&mut one, TRY)?);
    ensure_code(&one.refused("PREPARE TRANSACTION 'slots'")?, "0A000")?;
    ensure!(free(&mut one)? == 2);
    ensure_code(&one.refused(&format!("SET TRANSACTION READ ONLY; {TRY}"))?, "25006")
}

/// What takes or looks at a slot.
const CALLS: &[&str] = &[
    "SELECT rl_try_slot('memory', 'key')",
    "SELECT rl_slot('memory', 'key', '0')",
    "SELECT rl_try_session_slot('memory', 'key')",
    "SELECT rl_session_slot('memory', 'key', '0')",
    "SELECT rl_release_session_slot('memory', 'key')",
    "SELECT rl_try_lease('memory', 'key', '1 s')",
    "SELECT rl_lease('memory', 'key', '1 s', '0')",
    "SELECT rl_try_acquire('memory', 'key')",
    "SELECT rl_acquire('memory', 'key', 1, '0')",
    "SELECT rl_peek('memory', 'key')",
    "SELECT rl_http_headers('memory', 'key')",
];

fn memory_limiters(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let mut session = session(&server)?;
    session.batch_execute(
        "INSERT INTO rl_limiters (name, storage, max_concurrent) VALUES ('memory', 'memory', 9)",
    )?;
    for call in CALLS {
        if bed.tree().major >= 17 {
            session.batch_execute(call).with_context(|| (*call).to_owned())?;
            continue;
        }
        let error = session.refused(call)?;
        ensure_code(&error, "55000")?;
        ensure!(error.hint().is_some_and(|hint| hint.contains("shared_preload_libraries")));
    }
    let shown = "SELECT count(*) FROM rl_slots WHERE kind = 'transaction'";
    ensure!(session.ask::<i64>(shown)? == 0 && says(&mut session, "SELECT true FROM rl_info()")?);
    Ok(())
}

fn slot_goes_with_a_rate(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let mut session = session(&server)?;
    session.batch_execute(
        "SELECT rl_create_limiter('api', '3 per 36500 days', storage => 'durable', max_concurrent => 2)",
    )?;
    let slots = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 21069";
    session.batch_execute("BEGIN")?;
    ensure!(session.takes("api", "key")? && session.takes("api", "key")?);
    let refused = "SELECT reason FROM rl_check('api', 'key')";
    ensure!(session.ask::<String>(refused)? == "concurrency");
    ensure!(session.ask::<i64>(slots)? == 2);
    session.batch_execute("COMMIT; BEGIN")?;
    ensure!(session.ask::<String>("SELECT reason FROM rl_check('api', 'key', 2)")? == "rate");
    ensure!(session.ask::<i64>(slots)? == 0, "no slot without the rate");
    ensure!(session.left("api", "key")? == 1, "no rate without the slot");
    session.batch_execute("COMMIT")?;
    Ok(())
}

/// Holders have numbers, and some of them are higher than any that a newcomer may have.
fn lowered(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let (mut admin, mut other) = (session(&server)?, session(&server)?);
    let mut set = |slots: i32| {
        admin.batch_execute(&format!("UPDATE rl_limiters SET max_concurrent = {slots}"))
    };
    set(6)?;
    let mut holders = (0..6).map(|_| session(&server)).collect::<Result<Vec<_>>>()?;
    for holder in &mut holders {
        ensure!(says(holder, TRY_SESSION)?);
    }
    set(3)?;
    for left in (0..6).rev() {
        ensure!(says(&mut holders.swap_remove(left / 2), RELEASE)?);
        let taken = says(&mut other, TRY)?;
        ensure!(taken == (left < 3), "{left} of 3 are held");
    }
    Ok(())
}

fn waited_for(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let mut holders = [session(&server)?, session(&server)?];
    for holder in &mut holders {
        ensure!(says(holder, TRY_SESSION)?);
    }
    let mut waiter = session(&server)?;
    ensure!(!says(&mut waiter, "SELECT rl_slot('export', 'key', '50 ms')")?);
    let timeout = "SET statement_timeout = 50; SELECT rl_slot('export', 'key')";
    ensure_code(&waiter.refused(timeout)?, "57014")?;
    waiter.batch_execute("RESET statement_timeout")?;

    let pid = waiter.pid()?;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| says(&mut waiter, "SELECT rl_session_slot('export', 'key')"));
        let event = format!("SELECT wait_event LIKE ANY ('{{Extension,RateLimitSlot}}') FROM pg_stat_activity WHERE pid = {pid}");
        eventually("it waits", || Ok(holders[0].ask::<Option<bool>>(&event)? == Some(true)))?;
        ensure!(!waiting.is_finished());
        ensure!(says(&mut holders[0], RELEASE)?);
        ensure!(waiting.join().ok().context("it died")??);
        Ok(())
    })?;
    ensure!(says(&mut waiter, RELEASE)?);
    Ok(())
}

fn changed_definitions(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let (mut admin, mut holder) = (session(&server)?, session(&server)?);
    ensure!(says(&mut holder, TRY_SESSION)? && says(&mut holder, TRY_SESSION)?);
    for (change, code) in [
        ("UPDATE rl_limiters SET max_concurrent = 3", None),
        ("UPDATE rl_limiters SET max_concurrent = NULL", Some("22023")),
        ("SELECT rl_drop_limiter('export')", Some("42704")),
    ] {
        let mut waiter = session(&server)?;
        let pid = waiter.pid()?;
        std::thread::scope(|scope| {
            let waiting =
                scope.spawn(|| waiter.refused("SELECT 1 / (1 - rl_slot('export', 'key')::int)"));
            let event = format!("SELECT wait_event LIKE ANY ('{{Extension,RateLimitSlot}}') FROM pg_stat_activity WHERE pid = {pid}");
            eventually("it waits", || Ok(admin.ask::<Option<bool>>(&event)? == Some(true)))?;
            admin.batch_execute(change)?;
            // A slot that it gets is given back by the division that fails then.
            let error = waiting.join().ok().context("it died")??;
            ensure_code(&error, code.unwrap_or("22012")).context(change)
        })?;
        admin.batch_execute("UPDATE rl_limiters SET max_concurrent = 2")?;
    }
    Ok(())
}

/// A quarter of the table is for slots: other sessions never run out of locks.
fn lock_table(bed: &Bed) -> Result<()> {
    let settings = [("max_locks_per_transaction", "10"), ("max_connections", "10")];
    let server = start(bed, &settings)?;
    let (mut session, mut other) = (session(&server)?, session(&server)?);
    session.batch_execute("UPDATE rl_limiters SET max_concurrent = 100000")?;
    session.batch_execute("BEGIN")?;
    let error = session.refused(
        "SELECT rl_try_slot('export', 'key' || n % 7) FROM generate_series(1, 1000) AS n",
    )?;
    ensure_code(&error, "53400")?;
    ensure!(error.hint().is_some_and(|hint| hint.contains("ratelimit.max_slots")));
    session.batch_execute("ROLLBACK")?;
    let taken = "SELECT count(rl_try_session_slot('export', 'key')) FROM generate_series(1, 20)";
    ensure!(session.ask::<i64>(taken)? == 20);
    other.batch_execute(
        "DO $$ BEGIN FOR n IN 1..40 LOOP EXECUTE format('CREATE TABLE t%s (n int)', n); END LOOP; END $$",
    )?;
    Ok(())
}

/// Many sessions want the two slots, and raise a counter of this process while they have one.
fn never_too_many(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let end = Instant::now() + Duration::from_secs(3);
    let holders = std::sync::atomic::AtomicUsize::new(0);
    let taken = std::thread::scope(|scope| {
        let sessions = (0..8).map(|_| session(&server)).collect::<Result<Vec<_>>>()?;
        let work = |mut session: Client, n: usize| -> Result<usize> {
            use std::sync::atomic::Ordering::SeqCst;
            let mut taken = 0;
            while Instant::now() < end {
                session.batch_execute("BEGIN")?;
                let wait = if n.is_multiple_of(2) {
                    TRY
                } else {
                    "SELECT rl_slot('export', 'key', '10 ms')"
                };
                if says(&mut session, wait)? {
                    let held = holders.fetch_add(1, SeqCst) + 1;
                    taken += 1;
                    ensure!(held <= 2, "{held} sessions have a slot");
                    std::thread::yield_now();
                    holders.fetch_sub(1, SeqCst);
                }
                session.batch_execute(["COMMIT", "ROLLBACK"][taken % 2])?;
            }
            Ok(taken)
        };
        let threads: Vec<_> = sessions
            .into_iter()
            .enumerate()
            .map(|(n, session)| scope.spawn(move || work(session, n)))
            .collect();
        let taken = threads.into_iter().map(|thread| thread.join().ok().context("it died")?);
        taken.sum::<Result<usize>>()
    })?;
    ensure!(taken > 0 && free(&mut session(&server)?)? == 2, "{taken} taken, and not all are free");
    Ok(())
}
