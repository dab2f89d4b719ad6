//! The launcher and its workers: they keep house, and are in nobody's way.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::{Builder, Server, Stop};

use super::ask::{ensure_code, eventually, Ask, AGE};
use super::kinds::Kind;
use super::standby::standby_of;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("launcher_and_worker_show_themselves", launcher_and_worker_show_themselves),
    ("house_is_kept_by_hand", house_is_kept_by_hand),
    ("a_reload_starts_the_rounds", a_reload_starts_the_rounds),
    ("nobody_waits_for_a_worker", nobody_waits_for_a_worker),
    ("a_worker_waits_for_nobody", a_worker_waits_for_nobody),
    ("an_error_in_one_database_stops_no_other", an_error_in_one_database_stops_no_other),
    ("a_database_that_fails_is_tried_less_and_less_often", a_database_that_fails),
    ("a_database_without_durable_counts_is_not_visited", without_durable_counts),
    ("without_room_for_a_worker_the_launcher_goes_on", without_room_the_launcher_goes_on),
    ("a_fast_stop_is_fast", a_fast_stop_is_fast),
    ("a_fast_stop_waits_for_no_standby", a_fast_stop_waits_for_no_standby),
    ("launcher_and_worker_come_back", launcher_and_worker_come_back),
    ("a_standby_is_swept_and_worked_in_after_promotion", a_standby_is_swept),
];

/// Nothing may wait longer.
pub const LONGEST: Duration = Duration::from_secs(5);

/// A server with as many rounds as can be.
fn busy(bed: &Bed) -> Builder {
    bed.private().setting("ratelimit.purge_interval", "100ms")
}

/// The processes of a kind.
fn processes(session: &mut Client, kind: &str) -> Result<Vec<i32>> {
    session.ask(&format!(
        "SELECT coalesce(array_agg(pid), '{{}}') FROM pg_stat_activity WHERE backend_type = 'ratelimit {kind}'"
    ))
}

/// Waits for a launcher that is none of these.
pub fn launcher(session: &mut Client, known: &[i32]) -> Result<i32> {
    let mut found = None;
    eventually("there is a launcher", || {
        let launchers = processes(session, "launcher")?;
        ensure!(launchers.len() <= 1, "{} launchers", launchers.len());
        found = launchers.into_iter().find(|pid| !known.contains(pid));
        Ok(found.is_some())
    })?;
    found.context("no launcher")
}

/// A worker that waits for a lock in the database of this session.
fn waiting(session: &mut Client) -> Result<Option<i32>> {
    // Else a transaction sees what it saw first.
    session.batch_execute("SELECT pg_stat_clear_snapshot()")?;
    session.ask(
        "SELECT max(pid) FROM pg_stat_activity
          WHERE backend_type = 'ratelimit worker' AND datname = current_database() AND wait_event_type = 'Lock'",
    )
}

/// Makes the workers in the database of this session wait, and runs `f` when the first one does.
pub fn with_worker<R>(
    session: &mut Client,
    f: impl FnOnce(&mut Client, i32) -> Result<R>,
) -> Result<R> {
    session.batch_execute("BEGIN; LOCK rl_limiters")?;
    let mut worker = None;
    eventually("a worker comes", || {
        worker = waiting(session)?;
        Ok(worker.is_some())
    })?;
    let answer = f(session, worker.context("no worker")?);
    session.batch_execute("ROLLBACK")?;
    answer
}

/// Gives workers something to do in the database of this session, now and later.
fn work(session: &mut Client) -> Result<()> {
    Kind::Durable.create(session, "api", &format!("1 per {AGE}"), "token_bucket")?;
    ensure!(session.takes("api", "key")?);
    Ok(())
}

/// Waits for a round that begins after this call.
pub fn a_round_ends(session: &mut Client) -> Result<()> {
    const LAST: &str = "SELECT last_purge::text FROM rl_info()";
    // One may be on its way.
    for _ in 0..2 {
        let before: Option<String> = session.ask(LAST)?;
        eventually("a round ends", || Ok(session.ask::<Option<String>>(LAST)? != before))?;
    }
    Ok(())
}

fn last_error(session: &mut Client) -> Result<String> {
    session.ask("SELECT coalesce(last_error, '') FROM rl_info()")
}

/// Runs a statement, which must not wait.
fn promptly(session: &mut Client, statement: &str) -> Result<()> {
    let start = Instant::now();
    session.batch_execute(statement).with_context(|| statement.to_owned())?;
    ensure!(start.elapsed() < LONGEST, "{statement} took {:?}", start.elapsed());
    Ok(())
}

fn stops_promptly(server: &mut Server) -> Result<()> {
    let start = Instant::now();
    server.stop(Stop::Fast)?;
    ensure!(start.elapsed() < LONGEST, "the stop took {:?}", start.elapsed());
    Ok(())
}

fn launcher_and_worker_show_themselves(bed: &Bed) -> Result<()> {
    let server = busy(bed).start()?;
    let mut session = Database::new(&server, "worker")?.connect()?;
    launcher(&mut session, &[])?;
    let nowhere =
        "SELECT datid IS NULL FROM pg_stat_activity WHERE backend_type = 'ratelimit launcher'";
    ensure!(session.ask::<bool>(nowhere)?, "the launcher is connected to a database");
    work(&mut session)?;
    with_worker(&mut session, |session, worker| {
        let activity =
            format!("SELECT state || ' ' || query FROM pg_stat_activity WHERE pid = {worker}");
        let activity: String = session.ask(&activity)?;
        ensure!(activity == "active removing expired state", "{activity}");
        Ok(())
    })?;
    a_round_ends(&mut session)
}

fn house_is_kept_by_hand(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let mut session = Database::new(&server, "worker")?.connect()?;
    session.limiter("api", 1)?;
    ensure!(session.takes("api", "key")?);
    ensure!(session
        .ask::<bool>("SELECT last_purge IS NULL AND last_purge_rows IS NULL FROM rl_info()")?);
    ensure!(session.ask::<i64>("SELECT rl_purge()")? == 0);
    ensure!(session.ask::<bool>(
        "SELECT last_purge <= clock_timestamp() AND last_purge_rows = 0 FROM rl_info()"
    )?);
    // Also where nothing can be written.
    session.batch_execute("BEGIN READ ONLY; SELECT rl_purge(); COMMIT")?;
    ensure!(!session.takes("api", "key")?, "the key was forgotten");
    Ok(())
}

fn a_reload_starts_the_rounds(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let mut session = Database::new(&server, "worker")?.connect()?;
    launcher(&mut session, &[])?;
    session.batch_execute("ALTER SYSTEM SET ratelimit.purge_interval = '1ms'")?;
    session.batch_execute("SELECT pg_reload_conf()")?;
    a_round_ends(&mut session)?;
    ensure_code(&session.refused("SET ratelimit.purge_interval = 0")?, "55P02")?;
    ensure_code(&session.refused("ALTER SYSTEM SET ratelimit.purge_batch_size = 0")?, "22023")
}

fn nobody_waits_for_a_worker(bed: &Bed) -> Result<()> {
    // The log shows when a worker starts.
    let server = busy(bed).setting("log_min_messages", "debug1").start()?;
    for home in ["postgres", "template1"] {
        let mut session = server.connect_to(home, "postgres")?;
        session
            .batch_execute("CREATE EXTENSION ratelimit; SELECT rl_create_limiter('api', '1/s', storage => 'durable')")?;
        session.close()?;
    }
    let mut admin = server.connect_to("template1", "postgres")?;
    admin.batch_execute("CREATE DATABASE admin")?;
    admin.batch_execute("CREATE DATABASE closed ALLOW_CONNECTIONS false")?;
    admin.close()?;
    let mut admin = server.connect_to("admin", "postgres")?;
    for _ in 0..8 {
        for (name, template) in [("one", "postgres"), ("two", "template1")] {
            promptly(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE {template}"))?;
            let mut session = server.connect_to(name, "postgres")?;
            session.takes("api", "key")?;
            promptly(&mut session, "ALTER EXTENSION ratelimit UPDATE")?;
            promptly(&mut session, "DROP EXTENSION ratelimit")?;
            promptly(&mut session, "CREATE EXTENSION ratelimit")?;
            work(&mut session)?;
            session.close()?;
            promptly(&mut admin, &format!("ALTER DATABASE {name} RENAME TO other"))?;
            a_round_ends(&mut admin)?;
            promptly(&mut admin, "DROP DATABASE other")?;
        }
    }
    ensure!(last_error(&mut admin)?.is_empty(), "{}", last_error(&mut admin)?);
    let started =
        server.log().matches("starting background worker process \"ratelimit worker").count();
    ensure!(started > 16, "only {started} workers were started");
    Ok(())
}

fn a_worker_waits_for_nobody(bed: &Bed) -> Result<()> {
    let server = busy(bed).start()?;
    let (one, other) = (Database::new(&server, "one")?, Database::new(&server, "other")?);
    let (mut one, mut other) = (one.connect()?, other.connect()?);
    work(&mut one)?;
    work(&mut other)?;
    one.batch_execute("BEGIN; LOCK rl_limiters")?;
    eventually("the worker gives up", || Ok(last_error(&mut other)?.contains("lock timeout")))?;
    ensure!(
        last_error(&mut other)?.starts_with("database \"one\": "),
        "{}",
        last_error(&mut other)?
    );
    with_worker(&mut other, |_, _| Ok(()))?;
    one.batch_execute("ROLLBACK")?;
    eventually("the error is forgotten", || Ok(last_error(&mut other)?.is_empty()))?;

    // An extension that is being dropped is left alone.
    one.batch_execute("BEGIN; DROP EXTENSION ratelimit")?;
    a_round_ends(&mut other)?;
    ensure!(last_error(&mut other)?.is_empty(), "{}", last_error(&mut other)?);
    one.batch_execute("ROLLBACK")?;
    Ok(())
}

fn an_error_in_one_database_stops_no_other(bed: &Bed) -> Result<()> {
    let server = busy(bed).start()?;
    let (bad, good) = (Database::new(&server, "bad")?, Database::new(&server, "good")?);
    let (mut bad, mut good) = (bad.connect()?, good.connect()?);
    work(&mut bad)?;
    work(&mut good)?;
    // Who owns a table can give it triggers and indexes with functions, which a worker would run.
    bad.batch_execute("CREATE ROLE thief; ALTER TABLE rl_rules OWNER TO thief")?;
    let error = "database \"bad\": table \"rl_rules\" is not the one that ratelimit created";
    eventually("the error is seen", || Ok(last_error(&mut good)? == error))?;
    ensure_code(&bad.refused("SELECT rl_purge()")?, "55000")?;
    with_worker(&mut good, |_, _| Ok(()))?;
    a_round_ends(&mut good)?;
    ensure!(last_error(&mut good)? == error, "another database's success hid the error");

    bad.batch_execute("ALTER TABLE rl_rules OWNER TO postgres")?;
    eventually("a success clears it", || Ok(last_error(&mut good)?.is_empty()))?;
    // So does the end of the database.
    bad.batch_execute("ALTER EXTENSION ratelimit DROP TABLE rl_rules")?;
    eventually("the error is seen", || Ok(last_error(&mut good)? == error))?;
    bad.close()?;
    promptly(&mut good, "DROP DATABASE bad")?;
    eventually("it is forgotten", || Ok(last_error(&mut good)?.is_empty()))
}

fn a_database_that_fails(bed: &Bed) -> Result<()> {
    let server = busy(bed).start()?;
    let mut session = Database::new(&server, "bad")?.connect()?;
    work(&mut session)?;
    session.batch_execute("CREATE ROLE thief; ALTER TABLE rl_rules OWNER TO thief")?;
    eventually("the error is seen", || Ok(!last_error(&mut session)?.is_empty()))?;
    const ROUNDS: usize = 40;
    for _ in 0..ROUNDS / 2 {
        a_round_ends(&mut session)?;
    }
    let tries = server.log().matches("is not the one that ratelimit created").count();
    // 100 ms, 200 ms, 400 ms and so on: twelve tries take more than six minutes.
    ensure!(tries < 12, "{tries} tries");
    ensure!(!last_error(&mut session)?.is_empty(), "the error is not shown any more");
    Ok(())
}

fn without_durable_counts(bed: &Bed) -> Result<()> {
    let server = busy(bed).setting("log_min_messages", "debug1").start()?;
    let mut session = Database::new(&server, "memory")?.connect()?;
    session.limiter("memory", 1)?;
    let oid: u32 = session.ask("SELECT oid FROM pg_database WHERE datname = current_database()")?;
    let started =
        format!("starting background worker process \"ratelimit worker for database {oid}\"");
    // The first round goes everywhere, and the next one where definitions have changed.
    a_round_ends(&mut session)?;
    a_round_ends(&mut session)?;
    let visits = server.log().matches(&started).count();
    for _ in 0..5 {
        ensure!(session.ask::<bool>("SELECT rl_reset_all('memory') >= 0")?);
        ensure!(session.takes("memory", "key")?);
        a_round_ends(&mut session)?;
    }
    let later = server.log().matches(&started).count();
    ensure!(later == visits, "{visits} visits, then {later}");
    work(&mut session)?;
    eventually("a worker comes", || Ok(server.log().matches(&started).count() > visits))
}

fn without_room_the_launcher_goes_on(bed: &Bed) -> Result<()> {
    let builder = busy(bed).setting("max_logical_replication_workers", "0");
    let server = builder.setting("max_worker_processes", "1").start()?;
    let mut session = Database::new(&server, "worker")?.connect()?;
    work(&mut session)?;
    for _ in 0..3 {
        a_round_ends(&mut session)?;
    }
    let complaints = server.log().matches("consider increasing max_worker_processes").count();
    ensure!(complaints == 1, "{complaints} complaints");
    Ok(())
}

/// The limiters that eight sessions use: half of them take of the durable one, as somebody did before.
fn load(server: &Server) -> Result<Client> {
    let mut session = Database::new(server, "worker")?.connect()?;
    session.limiter("api", 1)?;
    Kind::Durable.create(&mut session, "paid", &format!("1000 per {AGE}"), "token_bucket")?;
    ensure!(session.takes("paid", "key 0")?);
    Ok(session)
}

/// Sessions that call all the time, until the server ends them.
fn under_load(server: &mut Server, stop: impl FnOnce(&mut Server) -> Result<()>) -> Result<()> {
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(server.connect_to("worker", "postgres")?);
    }
    std::thread::scope(|scope| {
        for (session, limiter) in sessions.iter_mut().zip(["api", "paid"].into_iter().cycle()) {
            scope.spawn(move || {
                let load = format!("SELECT rl_try_acquire('{limiter}', 'key ' || n) FROM generate_series(1, 100) AS n");
                while session.batch_execute(&load).is_ok() {}
            });
        }
        a_round_ends(&mut server.connect_to("worker", "postgres")?)?;
        stop(server)
    })
}

fn a_fast_stop_is_fast(bed: &Bed) -> Result<()> {
    let mut server = busy(bed).start()?;
    load(&server)?.close()?;
    under_load(&mut server, stops_promptly)?;
    // Also while a worker waits for a lock.
    server.start_again()?;
    let mut session = server.connect_to("worker", "postgres")?;
    session.takes("api", "key")?;
    session.batch_execute("BEGIN; LOCK rl_limiters")?;
    eventually("a worker waits", || waiting(&mut session).map(|worker| worker.is_some()))?;
    stops_promptly(&mut server)
}

fn a_fast_stop_waits_for_no_standby(bed: &Bed) -> Result<()> {
    let mut server = busy(bed).start()?;
    let mut session = load(&server)?;
    session.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")?;
    session.ask::<bool>("SELECT pg_reload_conf()")?;
    eventually("commits wait for the standby", || {
        Ok(session.ask::<String>("SHOW synchronous_standby_names")? == "nobody")
    })?;
    with_worker(&mut session, |_, _| Ok(()))?;
    a_round_ends(&mut session)?;
    drop(session);
    under_load(&mut server, stops_promptly)
}

fn launcher_and_worker_come_back(bed: &Bed) -> Result<()> {
    let mut server = busy(bed).setting("restart_after_crash", "on").start()?;
    let mut session = Database::new(&server, "worker")?.connect()?;
    work(&mut session)?;
    let first = launcher(&mut session, &[])?;
    with_worker(&mut session, |session, worker| {
        ensure!(session.ask::<bool>(&format!("SELECT pg_terminate_backend({worker})"))?);
        let next = || Ok(waiting(session)?.is_some_and(|next| next != worker));
        eventually("another worker comes", next)
    })?;
    ensure!(session.ask::<bool>(&format!("SELECT pg_terminate_backend({first})"))?);
    let second = launcher(&mut session, &[first])?;
    a_round_ends(&mut session)?;

    server.crash(second)?;
    let mut session = server.connect_to("worker", "postgres")?;
    launcher(&mut session, &[first, second])?;
    with_worker(&mut session, |_, _| Ok(()))
}

fn a_standby_is_swept(bed: &Bed) -> Result<()> {
    let primary = bed.private().start()?;
    let mut session = Database::new(&primary, "worker")?.connect()?;
    session.limiter("memory", 1)?;
    session.batch_execute("ALTER SYSTEM SET ratelimit.purge_interval = '100ms'")?;
    let standby = standby_of(bed, &primary)?;
    let mut session = standby.connect_to("worker", "postgres")?;
    ensure!(session.takes("memory", "key")?);
    a_round_ends(&mut session)?;
    ensure!(processes(&mut session, "worker")?.is_empty(), "a worker on a standby");
    ensure!(session.ask::<bool>("SELECT pg_promote()")?);
    work(&mut session)?;
    with_worker(&mut session, |_, _| Ok(()))?;
    ensure!(!session.takes("memory", "key")?, "promotion forgot what was taken");
    Ok(())
}
