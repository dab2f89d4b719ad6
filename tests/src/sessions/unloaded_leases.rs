//! Leases of durable limiters on a server that did not load the library at its start. Before PostgreSQL 17 its sessions share no memory,
//! and a table decides, with locks; the answers are the same.

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::Stop;

use super::ask::{ensure_code, eventually, Ask};
use super::unloaded_slots::{free, says, session, start};
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("without_preload_a_lease_is_held_until_its_end", held_until_its_end),
    ("without_preload_leases_follow_their_transactions", follow_their_transactions),
    ("without_preload_one_statement_may_take_and_change_a_lease", one_statement),
    ("without_preload_two_sessions_with_one_token_take_turns", take_turns),
    ("without_preload_leases_from_preloaded_times_are_held", from_preloaded_times),
    ("without_preload_leases_do_not_fill_the_lock_table", lock_table),
];

fn lease(session: &mut Client, ttl: &str) -> Result<String> {
    let token = format!("SELECT rl_try_lease('export', 'key', '{ttl}')::text");
    session.ask::<Option<String>>(&token)?.context("all slots are taken")
}

fn renew(session: &mut Client, token: &str, ttl: &str) -> Result<bool> {
    says(session, &format!("SELECT rl_renew_lease('{token}', '{ttl}')"))
}

fn release(session: &mut Client, token: &str) -> Result<bool> {
    says(session, &format!("SELECT rl_release_lease('{token}')"))
}

const TRY: &str = "SELECT rl_try_slot('export', 'key')";

fn held_until_its_end(bed: &Bed) -> Result<()> {
    let mut server = start(bed, &[])?;
    let mut one = session(&server)?;
    let (first, second) = (lease(&mut one, "1 day")?, lease(&mut one, "1 day")?);
    ensure!(lease(&mut one, "1 day").is_err() && !says(&mut one, TRY)?);
    let shown = "SELECT string_agg(concat_ws(' ', limiter, key, kind, pid, token), ', ' ORDER BY since) FROM rl_slots";
    let expected = [&first, &second].map(|token| format!("export key lease {token}")).join(", ");
    ensure!(one.ask::<String>(shown)? == expected);
    server.restart(Stop::Immediate)?;

    let (mut one, mut other) = (session(&server)?, session(&server)?);
    ensure!(one.ask::<String>(shown)? == expected);
    ensure!(free(&mut one)? == 0 && lease(&mut one, "1 day").is_err());
    for call in ["rl_renew_lease('TOKEN', '1 day')", "rl_release_lease('TOKEN')"] {
        let call = call.replace("TOKEN", &first);
        let read_only = format!("BEGIN READ ONLY; SELECT {call}");
        ensure_code(&other.refused(&read_only)?, "25006")?;
        other.batch_execute("ROLLBACK")?;
    }
    ensure!(release(&mut other, &first)? && !release(&mut one, &first)?);
    ensure!(!renew(&mut one, &first, "1 day")? && free(&mut one)? == 1);
    // Over, it is nobody's; who waits gets its slot.
    ensure!(says(&mut one, "SELECT rl_try_session_slot('export', 'key')")?);
    ensure!(renew(&mut other, &second, "200 ms")?);
    ensure!(says(&mut other, "SELECT rl_session_slot('export', 'key')")?);
    ensure!(!renew(&mut one, &second, "1 day")? && !release(&mut one, &second)?);
    ensure!(one.ask::<i64>("SELECT count(*) FROM rl_slots WHERE kind = 'lease'")? == 0);
    Ok(())
}

/// What a transaction does where one of two slots is held, how many are free for others meanwhile, and after its commit.
const CHANGES: &[(&str, i64, i64)] = &[
    ("SELECT rl_try_lease('export', 'key', '1 day')", 0, 0),
    ("SELECT rl_release_lease('TOKEN')", 1, 2),
    (
        "SELECT rl_release_lease('TOKEN'); SELECT 1 / rl_try_session_slot('export', 'key')::int",
        0,
        2,
    ),
    ("SELECT rl_release_lease(rl_try_lease('export', 'key', '1 day'))", 0, 1),
    ("SELECT rl_renew_lease('TOKEN', '1 microsecond'), pg_sleep(0.001)", 1, 2),
    ("SAVEPOINT s; SELECT rl_try_lease('export', 'key', '1 day'); ROLLBACK TO s", 1, 1),
    ("SAVEPOINT s; SELECT rl_release_lease('TOKEN'); ROLLBACK TO s", 1, 1),
    ("SAVEPOINT s; SELECT rl_release_lease('TOKEN'); RELEASE s", 1, 2),
];

fn follow_their_transactions(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let (mut one, mut other) = (session(&server)?, session(&server)?);
    for (deed, meanwhile, after) in CHANGES {
        for (end, after) in [("ROLLBACK", 1), ("COMMIT", *after)] {
            let token = lease(&mut other, "1 day")?;
            one.batch_execute(&format!("BEGIN; {}", deed.replace("TOKEN", &token)))?;
            let found = free(&mut other)?;
            ensure!(found == *meanwhile, "{deed}: {found} are free meanwhile");
            one.batch_execute(end)?;
            says(&mut one, "SELECT rl_release_session_slot('export', 'key')")?;
            let found = free(&mut other)?;
            ensure!(found == after, "{deed}; {end}: {found} are free");
            other.batch_execute("SELECT rl_release_lease(token) FROM rl_slots")?;
        }
    }
    // A longer life holds before the commit already.
    let token = lease(&mut other, "100 ms")?;
    one.batch_execute("BEGIN")?;
    ensure!(renew(&mut one, &token, "1 day")?);
    other.batch_execute("SELECT pg_sleep(0.1)")?;
    ensure!(free(&mut other)? == 1);
    one.batch_execute("COMMIT")?;
    ensure!(free(&mut other)? == 1);
    let prepare = "BEGIN; SELECT rl_try_lease('export', 'key', '1 day'); PREPARE TRANSACTION 'p'";
    ensure_code(&one.refused(prepare)?, "0A000")?;
    one.batch_execute("ROLLBACK")?;
    Ok(())
}

fn one_statement(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let mut one = session(&server)?;
    let renewed = "SELECT rl_renew_lease(rl_try_lease('export', 'key', '1 s'), '1 day')";
    ensure!(says(&mut one, renewed)?);
    let released = "SELECT rl_release_lease(rl_try_lease('export', 'key', '1 day'))";
    ensure!(says(&mut one, released)? && free(&mut one)? == 1);
    one.batch_execute(
        "SELECT rl_renew_lease(token, '2 days'), rl_renew_lease(token, '3 days') FROM rl_slots",
    )?;
    let days = "SELECT extract(day FROM expires_at - since + '1 hour')::int FROM rl_slots";
    ensure!(one.ask::<i32>(days)? == 3);
    Ok(())
}

fn take_turns(bed: &Bed) -> Result<()> {
    let server = start(bed, &[])?;
    let (mut one, mut other, mut admin) = (session(&server)?, session(&server)?, session(&server)?);
    let pid = other.pid()?;
    for level in ["READ COMMITTED", "SERIALIZABLE"] {
        for (end, expected) in [("COMMIT", false), ("ROLLBACK", true)] {
            let token = lease(&mut one, "1 day")?;
            for session in [&mut one, &mut other] {
                session.batch_execute(&format!(
                    "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM rl_slots, rl_limiters"
                ))?;
            }
            ensure!(release(&mut one, &token)?);
            let released = std::thread::scope(|scope| {
                let released = scope.spawn(|| release(&mut other, &token));
                let waits = format!(
                    "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
                );
                eventually("the other one waits", || says(&mut admin, &waits))?;
                one.batch_execute(end)?;
                released.join().ok().context("it died")?
            })?;
            ensure!(released == expected, "{level}; {end}: {released}");
            other.batch_execute("COMMIT")?;
            ensure!(free(&mut one)? == 2);
        }
    }
    Ok(())
}

/// They have no numbers, and take as many slots all the same.
fn from_preloaded_times(bed: &Bed) -> Result<()> {
    if bed.tree().major >= 17 {
        return Ok(());
    }
    let server = start(bed, &[])?;
    let (mut one, mut other) = (session(&server)?, session(&server)?);
    let tokens = [lease(&mut one, "1 day")?, lease(&mut one, "1 day")?];
    one.batch_execute("UPDATE rl_leases SET number = NULL")?;
    ensure!(free(&mut one)? == 0 && !says(&mut one, TRY)?);
    one.batch_execute("UPDATE rl_limiters SET max_concurrent = 3")?;
    let last = lease(&mut one, "1 day")?;
    ensure!(!says(&mut other, TRY)?);
    ensure!(renew(&mut other, &tokens[0], "2 days")? && release(&mut other, &tokens[0])?);
    ensure!(free(&mut one)? == 1 && says(&mut one, TRY)?);
    ensure!(release(&mut one, &last)? && release(&mut one, &tokens[1])? && free(&mut one)? == 3);
    Ok(())
}

fn lock_table(bed: &Bed) -> Result<()> {
    let settings = [("max_locks_per_transaction", "10"), ("max_connections", "10")];
    let server = start(bed, &settings)?;
    let mut session = session(&server)?;
    session.batch_execute("UPDATE rl_limiters SET max_concurrent = 100000")?;
    let take = "SELECT count(rl_try_lease('export', 'key', '1 day')) FROM generate_series(1, 1000)";
    ensure_code(&session.refused(take)?, "53400")?;
    // Where memory is shared all leases count, and not only those of one transaction.
    if bed.tree().major >= 17 {
        return Ok(());
    }
    for _ in 0..10 {
        let take =
            "SELECT count(rl_try_lease('export', 'key', '1 day')) FROM generate_series(1, 20)";
        ensure!(session.ask::<i64>(take)? == 20);
    }
    let all = "SELECT count(*) FROM rl_slots WHERE rl_release_lease(token)";
    ensure_code(&session.refused(all)?, "53400")?;
    ensure!(session.ask::<i64>("SELECT count(*) FROM rl_slots")? == 200);
    Ok(())
}
