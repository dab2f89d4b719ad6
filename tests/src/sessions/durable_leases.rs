//! Leases of durable limiters follow their transactions, and survive what these survive.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{ensure_code, eventually, Ask};
use super::standby::standby_of;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("durable_leases_survive_a_crash", survive_a_crash),
    ("durable_leases_survive_a_restart_once", survive_a_restart_once),
    ("durable_leases_expire_while_the_server_is_down", expire_while_the_server_is_down),
    ("durable_leases_roll_back", roll_back),
    ("two_sessions_with_one_token_take_turns", take_turns),
    ("a_durable_lease_is_handed_on_at_the_commit", handed_on_at_the_commit),
    ("durable_leases_never_fail_to_serialize", never_fail_to_serialize),
    ("durable_leases_need_a_writable_transaction", need_a_writable_transaction),
    ("durable_leases_follow_a_promotion", follow_a_promotion),
    ("durable_leases_of_a_copied_database_are_its_own", of_a_copied_database),
    ("rows_of_durable_leases_go_with_their_time_or_limiter", rows_go),
    ("durable_leases_of_a_dropped_extension_are_forgotten", of_a_dropped_extension),
];

const NAME: &str = "durable_leases";

/// A server whose worker leaves everything to the test, with a limiter of two slots.
fn start(bed: &Bed) -> Result<Server> {
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    Database::new(&server, NAME)?.connect()?.batch_execute(LIMITER)?;
    Ok(server)
}

const LIMITER: &str =
    "SELECT rl_create_limiter('export', max_concurrent => 2, storage => 'durable')";

fn connect(server: &Server) -> Result<Client> {
    server.connect_to(NAME, "postgres")
}

fn crashed(server: &mut Server) -> Result<Client> {
    server.restart(Stop::Immediate)?;
    connect(server)
}

fn try_lease(session: &mut Client, key: &str) -> Result<Option<String>> {
    session.ask(&format!("SELECT rl_try_lease('export', '{key}', '1 day')::text"))
}

fn lease(session: &mut Client, key: &str) -> Result<String> {
    try_lease(session, key)?.with_context(|| format!("all slots of {key} are taken"))
}

fn renew(session: &mut Client, token: &str, ttl: &str) -> Result<bool> {
    session.ask(&format!("SELECT rl_renew_lease('{token}', '{ttl}')"))
}

fn release(session: &mut Client, token: &str) -> Result<bool> {
    session.ask(&format!("SELECT rl_release_lease('{token}')"))
}

/// How many leases a key has.
fn held(session: &mut Client, key: &str) -> Result<i64> {
    session.ask(&format!("SELECT count(*) FROM rl_slots WHERE key = '{key}'"))
}

/// How many days a lease lasts still, rounded.
fn days(session: &mut Client, token: &str) -> Result<i64> {
    session.ask(&format!(
        "SELECT round(extract(epoch FROM expires_at - clock_timestamp()) / 86400)::bigint FROM rl_slots WHERE token = '{token}'"
    ))
}

fn rows(session: &mut Client) -> Result<i64> {
    session.ask("SELECT count(*) FROM rl_leases")
}

fn survive_a_crash(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let (mut session, mut open) = (connect(&server)?, connect(&server)?);
    let long = "k".repeat(10_000);
    let (kept, released) = (lease(&mut session, "a")?, lease(&mut session, "a")?);
    let of_long = lease(&mut session, &long)?;
    ensure!(release(&mut session, &released)? && renew(&mut session, &kept, "3 days")?);
    const SHOWN: &str = "SELECT string_agg(concat_ws(' ', limiter, key, kind, token, since, expires_at), E'\\n' ORDER BY token) FROM rl_slots";
    let shown: String = session.ask(SHOWN)?;
    // In the crash this is open: its lease is gone, and what it released is held.
    open.batch_execute("BEGIN")?;
    lease(&mut open, "a")?;
    ensure!(release(&mut open, &of_long)? && try_lease(&mut session, "a")?.is_none());

    let mut session = crashed(&mut server)?;
    // The first look brings them back, and so does the first that needs a slot.
    let found: String = session.ask(SHOWN)?;
    ensure!(found == shown, "{shown}\nbecame\n{found}");
    let mut session = crashed(&mut server)?;
    lease(&mut session, "a")?;
    ensure!(try_lease(&mut session, "a")?.is_none(), "the crash lost a lease");
    ensure!(!session.ask::<bool>("SELECT rl_try_slot('export', 'a')")?);
    // Its token works as before, also if it is the first that is heard of.
    let mut session = crashed(&mut server)?;
    ensure!(!release(&mut session, &released)?, "it was released before the crash");
    ensure!(release(&mut session, &kept)? && !release(&mut session, &kept)?);
    let mut session = crashed(&mut server)?;
    ensure!(!renew(&mut session, &kept, "1 day")? && renew(&mut session, &of_long, "2 days")?);
    ensure!(held(&mut session, "a")? == 1 && days(&mut session, &of_long)? == 2);
    ensure!(lease(&mut session, &long).is_ok() && try_lease(&mut session, &long)?.is_none());
    Ok(())
}

fn survive_a_restart_once(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let token = lease(&mut connect(&server)?, "a")?;
    for _ in 0..2 {
        server.restart(Stop::Fast)?;
        let mut session = connect(&server)?;
        ensure!(held(&mut session, "a")? == 1);
    }
    let mut session = connect(&server)?;
    lease(&mut session, "a")?;
    ensure!(try_lease(&mut session, "a")?.is_none());
    ensure!(release(&mut session, &token)? && !release(&mut session, &token)?);
    server.restart(Stop::Fast)?;
    ensure!(held(&mut connect(&server)?, "a")? == 1, "a released lease came back");
    Ok(())
}

fn expire_while_the_server_is_down(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let mut session = connect(&server)?;
    let (short, long) = (lease(&mut session, "a")?, lease(&mut session, "a")?);
    ensure!(renew(&mut session, &short, "1 second")?);
    server.stop(Stop::Immediate)?;
    std::thread::sleep(Duration::from_secs(1));
    server.start_again()?;
    let mut session = connect(&server)?;
    ensure!(!renew(&mut session, &short, "1 day")? && !release(&mut session, &short)?);
    ensure!(held(&mut session, "a")? == 1 && days(&mut session, &long)? == 1);
    lease(&mut session, "a")?;
    Ok(())
}

/// What a transaction does to a lease of a day, how many days it has left during the transaction, and after its commit.
const RENEWALS: &[(&str, i64, i64)] = &[
    ("SELECT rl_renew_lease('TOKEN', '3 days')", 3, 3),
    ("SELECT rl_renew_lease('TOKEN', '8 hours')", 1, 0),
    ("SELECT rl_renew_lease('TOKEN', '8 hours'); SELECT rl_renew_lease('TOKEN', '2 days')", 2, 2),
    ("SELECT rl_renew_lease('TOKEN', '5 days'); SELECT rl_renew_lease('TOKEN', '2 days')", 5, 2),
    ("SAVEPOINT s; SELECT rl_renew_lease('TOKEN', '5 days'); ROLLBACK TO s", 1, 1),
    ("SELECT rl_renew_lease('TOKEN', '5 days'); SAVEPOINT s; SELECT rl_renew_lease('TOKEN', '9 days'), rl_release_lease('TOKEN'); ROLLBACK TO s", 5, 5),
    ("SAVEPOINT s; SELECT rl_renew_lease('TOKEN', '5 days'); RELEASE s; SAVEPOINT s; SELECT rl_renew_lease('TOKEN', '9 days'); ROLLBACK TO s", 5, 5),
];

/// What a transaction does where one of two slots is held, how many are held meanwhile, and after its commit.
const CHANGES: &[(&str, i64, i64)] = &[
    ("SELECT rl_try_lease('export', 'KEY', '1 day')", 2, 2),
    ("SELECT rl_release_lease('TOKEN')", 1, 0),
    ("SELECT rl_release_lease('TOKEN'), rl_release_lease('TOKEN'), rl_renew_lease('TOKEN', '1 day')", 1, 0),
    ("SELECT rl_release_lease(rl_try_lease('export', 'KEY', '1 day'))", 2, 1),
    ("SELECT rl_renew_lease(rl_try_lease('export', 'KEY', '1 day'), '2 days'); SELECT rl_release_lease('TOKEN')", 2, 1),
    ("SAVEPOINT s; SELECT rl_try_lease('export', 'KEY', '1 day'); ROLLBACK TO s", 1, 1),
    ("SAVEPOINT s; SELECT rl_try_lease('export', 'KEY', '1 day'); RELEASE s", 2, 2),
    ("SAVEPOINT s; SELECT rl_try_lease('export', 'KEY', '1 day'); SAVEPOINT t; SELECT 1; RELEASE t; ROLLBACK TO s", 1, 1),
    ("SAVEPOINT s; SELECT rl_release_lease('TOKEN'); ROLLBACK TO s; SELECT rl_renew_lease('TOKEN', '1 day')", 1, 1),
    ("SAVEPOINT s; SELECT rl_release_lease('TOKEN'); RELEASE s", 1, 0),
    ("DO $$ BEGIN PERFORM rl_try_lease('export', 'KEY', '1 day'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END $$", 1, 1),
];

fn roll_back(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let (mut session, mut other) = (connect(&server)?, connect(&server)?);
    let mut ends = Vec::new();
    for (n, (deed, meanwhile, after)) in RENEWALS.iter().enumerate() {
        for (end, after) in [("ROLLBACK", 1), ("COMMIT", *after)] {
            let token = lease(&mut session, &format!("renewal {n} {end}"))?;
            session.batch_execute(&format!("BEGIN; {}", deed.replace("TOKEN", &token)))?;
            let found = days(&mut other, &token)?;
            ensure!(found == *meanwhile, "{deed}: {found} days meanwhile");
            session.batch_execute(end)?;
            let found = days(&mut other, &token)?;
            ensure!(found == after, "{deed}; {end}: {found} days");
            ends.push((token, after));
        }
    }
    let mut counts = Vec::new();
    for (n, (deed, meanwhile, after)) in CHANGES.iter().enumerate() {
        for (end, after) in [("ROLLBACK", 1), ("COMMIT", *after)] {
            let key = format!("change {n} {end}");
            let token = lease(&mut session, &key)?;
            let deed = deed.replace("TOKEN", &token).replace("KEY", &key);
            session.batch_execute(&format!("BEGIN; {deed}"))?;
            let found = held(&mut other, &key)?;
            ensure!(found == *meanwhile, "{deed}: {found} held meanwhile");
            session.batch_execute(end)?;
            let found = held(&mut other, &key)?;
            ensure!(found == after, "{deed}; {end}: {found} held");
            counts.push((key, after));
        }
    }
    let prepared = session
        .refused("BEGIN; SELECT rl_try_lease('export', 'key', '1 day'); PREPARE TRANSACTION 'p'")?;
    ensure_code(&prepared, "0A000")?;
    session.batch_execute("ROLLBACK")?;
    ensure!(held(&mut other, "key")? == 0);
    // A session that is ended rolls back.
    session.batch_execute("BEGIN; SELECT rl_try_lease('export', 'key', '1 day')")?;
    let pid = session.pid()?;
    ensure!(held(&mut other, "key")? == 1);
    ensure!(other.ask::<bool>(&format!("SELECT pg_terminate_backend({pid})"))?);
    eventually("its lease is free", || Ok(held(&mut other, "key")? == 0))?;

    // The table says the same.
    let mut session = crashed(&mut server)?;
    for (token, after) in ends {
        ensure!(days(&mut session, &token)? == after, "{after} days became others in the crash");
    }
    for (key, after) in counts {
        let found = held(&mut session, &key)?;
        ensure!(found == after, "{key}: {after} became {found} in the crash");
    }
    Ok(())
}

fn take_turns(bed: &Bed) -> Result<()> {
    let server = start(bed)?;
    let (mut one, mut other, mut observer) =
        (connect(&server)?, connect(&server)?, connect(&server)?);
    let pid = other.pid()?;
    for (deed, end, expected) in [
        ("rl_release_lease('TOKEN')", "COMMIT", false),
        ("rl_release_lease('TOKEN')", "ROLLBACK", true),
        ("rl_renew_lease('TOKEN', '8 hours')", "COMMIT", true),
        ("rl_renew_lease('TOKEN', '5 days')", "ROLLBACK", true),
    ] {
        let token = lease(&mut one, "a")?;
        one.batch_execute(&format!("BEGIN; SELECT {}", deed.replace("TOKEN", &token)))?;
        let renewed = std::thread::scope(|scope| {
            let renewed = scope.spawn(|| renew(&mut other, &token, "3 days"));
            eventually("the other one waits", || {
                observer.ask(&format!(
                    "SELECT wait_event_type IS NOT DISTINCT FROM 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
                ))
            })?;
            one.batch_execute(end)?;
            renewed.join().ok().context("the session panicked")?
        })?;
        ensure!(renewed == expected, "{deed}; {end}: {renewed}");
        ensure!(!expected || days(&mut observer, &token)? == 3, "{deed}; {end}: not 3 days");
        ensure!(release(&mut one, &token)? == expected);
    }
    // A token is worth something from the commit on.
    one.batch_execute("BEGIN")?;
    let token = lease(&mut one, "a")?;
    other.batch_execute("SET lock_timeout = '10 ms'")?;
    ensure_code(&other.refused(&format!("SELECT rl_release_lease('{token}')"))?, "55P03")?;
    one.batch_execute("COMMIT")?;
    ensure!(release(&mut other, &token)?);
    Ok(())
}

/// Whether a process waits for a slot.
fn waits(observer: &mut Client, pid: i32) -> Result<bool> {
    observer.ask(&format!(
        "SELECT wait_event_type IS NOT DISTINCT FROM 'Extension' AND state = 'active' FROM pg_stat_activity WHERE pid = {pid}"
    ))
}

fn handed_on_at_the_commit(bed: &Bed) -> Result<()> {
    let server = start(bed)?;
    let (mut one, mut other, mut observer) =
        (connect(&server)?, connect(&server)?, connect(&server)?);
    let pid = other.pid()?;
    let token = lease(&mut one, "a")?;
    let release = format!("SELECT rl_release_lease('{token}')");
    for (key, deed, end) in [
        ("a", release.as_str(), "COMMIT"),
        ("b", "SELECT rl_try_lease('export', 'b', '1 day')", "ROLLBACK"),
    ] {
        lease(&mut one, key)?;
        one.batch_execute(&format!("BEGIN; {deed}"))?;
        let (meanwhile, granted) = std::thread::scope(|scope| {
            let granted = scope.spawn(|| {
                other.ask::<bool>(&format!(
                    "SELECT rl_lease('export', '{key}', '1 day', '1 minute') IS NOT NULL"
                ))
            });
            eventually("the other one waits", || waits(&mut observer, pid))?;
            let meanwhile = held(&mut observer, key)?;
            one.batch_execute(end)?;
            anyhow::Ok((meanwhile, granted.join().ok().context("the session panicked")??))
        })?;
        ensure!(meanwhile == 2 && granted, "{deed}: {meanwhile} held, then {granted}");
        ensure!(held(&mut observer, key)? == 2);
    }
    Ok(())
}

fn never_fail_to_serialize(bed: &Bed) -> Result<()> {
    let server = start(bed)?;
    let (mut one, mut other) = (connect(&server)?, connect(&server)?);
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        // Both have snapshots from before what the other one does.
        for session in [&mut one, &mut other] {
            session.batch_execute(&format!(
                "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM rl_limiters, rl_slots"
            ))?;
        }
        let token = lease(&mut one, "a")?;
        let others = lease(&mut other, "a")?;
        ensure!(renew(&mut one, &token, "2 days")?);
        one.batch_execute("COMMIT")?;
        ensure!(renew(&mut other, &token, "3 days")? && release(&mut other, &token)?);
        other.batch_execute("COMMIT")?;
        ensure!(release(&mut one, &others)? && !release(&mut one, &token)?, "{level}");
        ensure!(rows(&mut one)? == 0);
    }
    Ok(())
}

fn need_a_writable_transaction(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let token = lease(&mut connect(&server)?, "a")?;
    let mut session = crashed(&mut server)?;
    for call in [
        "rl_try_lease('export', 'a', '1 day')".to_owned(),
        format!("rl_renew_lease('{token}', '1 day')"),
        format!("rl_release_lease('{token}')"),
    ] {
        let error = session.refused(&format!("BEGIN READ ONLY; SELECT {call}"))?;
        ensure_code(&error, "25006").context(call)?;
        session.batch_execute("ROLLBACK")?;
    }
    session.batch_execute("BEGIN READ ONLY")?;
    ensure!(held(&mut session, "a")? == 1);
    ensure!(!release(&mut session, "00000000-0000-4000-8000-000000000000")?);
    Ok(session.batch_execute("COMMIT")?)
}

fn follow_a_promotion(bed: &Bed) -> Result<()> {
    let mut primary = start(bed)?;
    let mut admin = connect(&primary)?;
    admin.batch_execute("SELECT rl_create_limiter('memory', max_concurrent => 1)")?;
    let first = lease(&mut admin, "a")?;
    let standby = standby_of(bed, &primary)?;
    let mut session = connect(&standby)?;
    let last = lease(&mut admin, "a")?;
    ensure!(release(&mut admin, &first)?);
    let mut open = connect(&primary)?;
    open.batch_execute("BEGIN")?;
    lease(&mut open, "a")?;
    let written: String = admin.ask("SELECT pg_current_wal_flush_lsn()::text")?;
    eventually("all of it arrives", || {
        session.ask(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"))
    })?;
    // Until then they are the primary's, and others the standby's own.
    ensure_code(&session.refused(&format!("SELECT rl_release_lease('{last}')"))?, "25006")?;
    ensure!(!release(&mut session, &first)? && held(&mut session, "a")? == 0);
    let own: String = session.ask("SELECT rl_try_lease('memory', 'a', '1 day')::text")?;
    ensure!(release(&mut session, &own)?);
    primary.stop(Stop::Immediate)?;

    ensure!(session.ask::<bool>("SELECT pg_promote()")?);
    lease(&mut session, "a")?;
    ensure!(try_lease(&mut session, "a")?.is_none(), "the promotion lost a lease");
    ensure!(release(&mut session, &last)? && !release(&mut session, &first)?);
    Ok(())
}

fn of_a_copied_database(bed: &Bed) -> Result<()> {
    let server = start(bed)?;
    let mut one = connect(&server)?;
    let token = lease(&mut one, "a")?;
    one.close()?;
    let mut admin = server.connect()?;
    eventually("the session is gone", || {
        admin.ask(&format!("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '{NAME}'"))
    })?;
    admin.batch_execute(&format!("CREATE DATABASE other TEMPLATE {NAME}"))?;
    let (mut one, mut other) = (connect(&server)?, server.connect_to("other", "postgres")?);
    for session in [&mut one, &mut other] {
        ensure!(held(session, "a")? == 1);
        lease(session, "a")?;
        ensure!(try_lease(session, "a")?.is_none());
    }
    ensure!(release(&mut other, &token)? && !release(&mut other, &token)?);
    ensure!(held(&mut one, "a")? == 2 && held(&mut other, "a")? == 1);
    ensure!(release(&mut one, &token)? && held(&mut one, "a")? == 1);
    Ok(())
}

fn rows_go(bed: &Bed) -> Result<()> {
    let mut server = start(bed)?;
    let mut session = connect(&server)?;
    session.batch_execute(
        "SELECT rl_create_limiter('dropped', max_concurrent => 100, storage => 'durable')",
    )?;
    let kept = lease(&mut session, "a")?;
    let short = lease(&mut session, "a")?;
    session.batch_execute(
        "SELECT rl_try_lease('dropped', 'a', '1 day') FROM generate_series(1, 50);
         SELECT rl_try_lease('dropped', 'b', '1 ms') FROM generate_series(1, 50)",
    )?;
    ensure!(renew(&mut session, &short, "1 ms")?);
    ensure!(rows(&mut session)? >= 52, "{} rows", rows(&mut session)?);
    session.batch_execute("SELECT rl_drop_limiter('dropped')")?;
    session.batch_execute("ALTER SYSTEM SET ratelimit.purge_interval = '100 ms'")?;
    session.batch_execute("SELECT pg_reload_conf()")?;
    eventually("the worker removes them", || Ok(rows(&mut session)? == 1))?;
    let mut session = crashed(&mut server)?;
    ensure!(held(&mut session, "a")? == 1);
    ensure!(release(&mut session, &kept)?);
    // The worker does not wait until it is on disk that rows are gone.
    eventually("the last ones are removed", || Ok(rows(&mut session)? == 0))
}

fn of_a_dropped_extension(bed: &Bed) -> Result<()> {
    let server = start(bed)?;
    let mut session = connect(&server)?;
    let token = lease(&mut session, "a")?;
    session.batch_execute("BEGIN")?;
    lease(&mut session, "b")?;
    ensure!(renew(&mut session, &token, "2 days")?);
    session.batch_execute("DROP EXTENSION ratelimit; COMMIT")?;
    session.batch_execute("CREATE SCHEMA \"Odd one\"; CREATE EXTENSION ratelimit SCHEMA \"Odd one\"; SET search_path = \"Odd one\"")?;
    session.batch_execute(LIMITER)?;
    for key in ["a", "b"] {
        ensure!(lease(&mut session, key).is_ok() && lease(&mut session, key).is_ok());
    }
    // The old one ends as one of a dropped limiter does.
    ensure!(release(&mut session, &token)? && try_lease(&mut session, "a")?.is_none());
    Ok(())
}
