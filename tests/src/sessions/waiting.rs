//! Waiting for a turn: who comes first is served first, nobody is early, and what ends a wait early gives its turn back.

use std::process::Stdio;

use anyhow::{anyhow, ensure, Context, Result};
use postgres::Client;
use testbed::Stop;

use super::ask::{ensure_code, eventually, Ask, AGE};
use super::kinds::{of_each, Case, Kind, KindTest, ALGORITHMS, KINDS};
use super::queue::Waiting;
use super::{FileTest, Test};
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("waiters_are_served_in_their_order_and_none_is_early", |bed| {
        served_in_order(bed.database("waiters")?)
    }),
    ("durable_reservations_survive_a_crash", reservations_survive_a_crash),
    ("a_wait_whose_client_is_gone_gives_its_turn_back", |bed| {
        client_is_gone(bed.database("gone")?)
    }),
    ("who_is_banned_while_waiting_gives_the_turn_back", |bed| {
        let database = bed.database("banned_while_waiting")?;
        KINDS.iter().try_for_each(|kind| banned_while_waiting(&database, *kind))
    }),
    ("a_fast_stop_ends_waits_and_saves_none", a_fast_stop),
    ("without_preload_a_wait_ends_when_there_is_something", |bed| {
        let server = bed.private().preload(false).start()?;
        let mut session = Database::new(&server, "waiting")?.connect()?;
        Kind::Durable.create(&mut session, "turns", "20 per second burst 1", "token_bucket")?;
        for _ in 0..3 {
            ensure!(session.ask::<bool>("SELECT allowed FROM rl_acquire('turns', 'key')")?);
        }
        session.ask::<String>(LONG)?;
        session.batch_execute("SELECT rl_try_acquire('long', 'key')")?;
        ensure!(!session.ask::<bool>("SELECT allowed FROM rl_acquire('long', 'key', 1, '1 min')")?);
        session.batch_execute("SET statement_timeout = '100 ms'")?;
        ensure_code(&session.refused("SELECT rl_acquire('long', 'key')")?, "57014")
    }),
];

pub fn tests() -> Vec<FileTest> {
    of_each(&KINDS, OF_KINDS)
}

const OF_KINDS: &[KindTest] =
    &[("what_was_waited_for", what_was_waited_for), ("what_was_reserved", what_was_reserved)];

const LONG: &str = "SELECT rl_create_limiter('long', '1 per 36500 days', storage => 'durable')";

/// Tests of an interrupted wait, which gives back whatever the kind.
pub fn interruptions() -> Vec<FileTest> {
    let each = KINDS.iter().flat_map(|kind| INTERRUPTIONS.iter().map(move |how| (*kind, how)));
    each.map(|(kind, (how, interrupt))| -> FileTest {
        let name = format!("a_wait_{how}_gives_its_turn_back_{}", kind.name());
        let database = name.clone();
        (name, Box::new(move |bed| interrupted(&bed.database(&database)?, kind, *interrupt)))
    })
    .collect()
}

/// What is done by an observer to the process that waits in a session.
type Interrupt = fn(&mut Client, i32) -> Result<()>;

const INTERRUPTIONS: &[(&str, Interrupt)] = &[
    ("that_is_cancelled", |observer, pid| signal(observer, "pg_cancel_backend", pid)),
    ("of_a_terminated_session", |observer, pid| signal(observer, "pg_terminate_backend", pid)),
    // The session itself has set a timeout.
    ("that_times_out", |_, _| Ok(())),
];

fn signal(observer: &mut Client, function: &str, pid: i32) -> Result<()> {
    ensure!(observer.ask::<bool>(&format!("SELECT {function}({pid})"))?);
    Ok(())
}

/// After how many periods of its rate a limiter of one in an age would let pass.
fn periods(session: &mut Client) -> Result<i32> {
    session.ask(&format!(
        "SELECT round(extract(epoch FROM retry_after) / extract(epoch FROM interval '{AGE}'))::int
           FROM rl_peek('slow', 'key')"
    ))
}

fn interrupted(database: &Database, kind: Kind, interrupt: Interrupt) -> Result<()> {
    let mut observer = database.connect()?;
    kind.create(&mut observer, "slow", &format!("1 per {AGE}"), "token_bucket")?;
    observer.batch_execute("SELECT rl_try_acquire('slow', 'key')")?;
    let mut waiter = database.connect()?;
    waiter.batch_execute("SET statement_timeout = '2 s'")?;
    let pid = waiter.pid()?;
    std::thread::scope(|scope| {
        let wait = "BEGIN; SELECT rl_acquire('slow', 'key')";
        let thread = scope.spawn(move || waiter.batch_execute(wait).is_err());
        eventually("a turn is booked", || Ok(periods(&mut observer)? == 2))?;
        interrupt(&mut observer, pid)?;
        let failed = thread.join().map_err(|_| anyhow!("the session panicked"))?;
        ensure!(failed, "the wait was not interrupted");
        eventually("the turn is given back", || Ok(periods(&mut observer)? == 1))
    })
}

fn client_is_gone(database: Database) -> Result<()> {
    let mut observer = database.connect()?;
    Kind::Keep.create(&mut observer, "slow", &format!("1 per {AGE}"), "token_bucket")?;
    observer.batch_execute("SELECT rl_try_acquire('slow', 'key')")?;
    let mut psql = database.server().command("psql");
    psql.args([
        "-X",
        "-d",
        database.name(),
        "-c",
        "SET client_connection_check_interval = '100 ms'",
    ]);
    psql.args(["-c", "SELECT rl_acquire('slow', 'key')"]).stdout(Stdio::null());
    let mut client = psql.spawn()?;
    eventually("a turn is booked", || Ok(periods(&mut observer)? == 2))?;
    client.kill()?;
    client.wait()?;
    eventually("the turn is given back", || Ok(periods(&mut observer)? == 1))
}

fn a_fast_stop(bed: &Bed) -> Result<()> {
    let mut server = bed.private().start()?;
    let mut observer = Database::new(&server, "stopped")?.connect()?;
    Kind::Keep.create(&mut observer, "slow", &format!("1 per {AGE}"), "token_bucket")?;
    observer.batch_execute("SELECT rl_try_acquire('slow', 'key')")?;
    let mut waiter = server.connect_to("stopped", "postgres")?;
    let thread =
        std::thread::spawn(move || waiter.batch_execute("SELECT rl_acquire('slow', 'key')"));
    eventually("a turn is booked", || Ok(periods(&mut observer)? == 2))?;
    server.stop(Stop::Fast)?;
    let ended = thread.join().map_err(|_| anyhow!("the session panicked"))?;
    ensure!(ended.is_err(), "the wait was not interrupted");
    server.start_again()?;
    let mut observer = server.connect_to("stopped", "postgres")?;
    ensure!(periods(&mut observer)? == 1, "the turn was saved");
    Ok(())
}

fn what_was_waited_for(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    // The first rule makes wait; the second shows for good what was taken.
    let rates = format!("5 per 100 ms, 10 per {AGE}");
    case.kind.create(&mut session, "two", &rates, "token_bucket")?;
    session.batch_execute("BEGIN; SELECT rl_try_acquire('two', 'key', 5)")?;
    ensure!(session.ask::<bool>("SELECT allowed FROM rl_acquire('two', 'key', 3)")?);
    session.batch_execute("ROLLBACK")?;
    let expected = case.kind.pick(5, 2);
    eventually("what came back", || Ok(session.left("two", "key")? == expected))
}

fn what_was_reserved(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    case.kind.create(&mut session, "slow", &format!("1 per {AGE}"), "token_bucket")?;
    session.batch_execute("SELECT rl_try_acquire('slow', 'key')")?;
    session.batch_execute("BEGIN; SELECT rl_reserve('slow', 'key'), rl_reserve('slow', 'key')")?;
    ensure!(periods(&mut session)? == 3);
    session.batch_execute("ROLLBACK")?;
    ensure!(periods(&mut session)? == case.kind.pick(1, 3) as i32);
    Ok(())
}

fn banned_while_waiting(database: &Database, kind: Kind) -> Result<()> {
    let (mut admin, mut waiter) = (database.connect()?, database.connect()?);
    let name = kind.name();
    // The first rule makes wait; of the second there is one left.
    let rates = format!("1 per 3 s burst 100, 101 per {AGE}");
    kind.create(&mut admin, name, &rates, "token_bucket")?;
    admin.batch_execute(&format!("SELECT rl_take('{name}', 'key', 100)"))?;
    waiter.batch_execute("BEGIN")?;
    let acquire = format!("SELECT allowed || ' ' || reason FROM rl_acquire('{name}', 'key')");
    let waiting: Waiting<String> = Waiting::start(waiter, &acquire)?;
    let is_asleep = format!(
        "SELECT wait_event IN ('RateLimitAcquire', 'Extension') FROM pg_stat_activity WHERE pid = {}",
        waiting.pid
    );
    eventually("a turn is booked", || Ok(admin.ask::<Option<bool>>(&is_asleep)? == Some(true)))?;
    admin.batch_execute(&format!("SELECT rl_ban('{name}', 'key', NULL)"))?;
    let (mut waiter, answer) = waiting.answer()?;
    ensure!(answer == "false ban", "{kind:?}: {answer}");
    admin.batch_execute(&format!("SELECT rl_unban('{name}', 'key')"))?;
    eventually("the turn is given back", || admin.takes(name, "key"))?;
    waiter.batch_execute("COMMIT")?;
    Ok(())
}

const WAITERS: usize = 12;

fn served_in_order(database: Database) -> Result<()> {
    let mut observer = database.connect()?;
    observer.batch_execute(
        "SELECT rl_create_limiter('turns', '20 per second burst 1');
         CREATE TABLE served (waiter int, at timestamptz DEFAULT clock_timestamp());
         CREATE TABLE start AS SELECT clock_timestamp() AS at, rl_try_acquire('turns', 'key')",
    )?;
    let mut sessions = (0..WAITERS).map(|_| database.connect()).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (n, mut session) in sessions.drain(..).enumerate() {
            threads.push(scope.spawn(move || -> Result<()> {
                session.batch_execute("BEGIN; SELECT rl_acquire('turns', 'key')")?;
                session.batch_execute(&format!("INSERT INTO served VALUES ({n}); COMMIT"))?;
                Ok(())
            }));
            // The next one comes when this one has its turn.
            eventually("a turn is booked", || Ok(observer.ask::<i64>(BOOKED)? > n as i64))?;
        }
        let mut joined = threads.into_iter().map(|thread| thread.join());
        joined.try_for_each(|done| done.map_err(|_| anyhow!("a session panicked"))?)
    })?;
    let early: i64 = observer.ask(
        "SELECT count(*) FROM served, start WHERE served.at < start.at + (waiter + 1) * interval '50 ms'",
    )?;
    ensure!(early == 0, "{early} were served early");
    let order: Vec<i32> = observer.ask("SELECT array_agg(waiter ORDER BY at) FROM served")?;
    ensure!(order.iter().zip(0..).all(|(waiter, n)| *waiter == n), "served: {order:?}");
    Ok(())
}

/// How many have their turn, or had it.
const BOOKED: &str =
    "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Extension')
        + (SELECT count(*) FROM served)";

fn reservations_survive_a_crash(bed: &Bed) -> Result<()> {
    let mut server = bed.private().setting("ratelimit.purge_interval", "1 d").start()?;
    let mut session = Database::new(&server, "reservations")?.connect()?;
    Kind::Durable.create_all(&mut session, 2)?;
    // In days, of which none ends during the test.
    let waits = |session: &mut Client| -> Result<String> {
        let limiters = ALGORITHMS.map(|name| format!("'{name}'")).join(", ");
        session.ask(&format!(
            "SELECT string_agg(round(extract(epoch FROM retry_after) / 86400)::text, ', ' ORDER BY limiter)
               FROM unnest(ARRAY[{limiters}]) AS limiter, rl_peek(limiter, 'key', 2)"
        ))
    };
    for limiter in ALGORITHMS {
        session.batch_execute(&format!(
            "SELECT rl_reserve('{limiter}', 'key', 2); SELECT rl_reserve('{limiter}', 'key', 2);
             BEGIN; SELECT rl_reserve('{limiter}', 'key', 2); ROLLBACK;
             SELECT rl_reserve('{limiter}', 'key', 1); SELECT rl_reserve('{limiter}', 'key', 1)"
        ))?;
    }
    let before = waits(&mut session)?;
    for fold in ["SELECT 1", "SELECT rl_purge()", "SELECT 1"] {
        session.batch_execute(fold)?;
        drop(session);
        server.restart(Stop::Immediate)?;
        session = server.connect_to("reservations", "postgres")?;
        let after = waits(&mut session).context("after a crash")?;
        ensure!(after == before, "waits of {after} days instead of {before}");
    }
    Ok(())
}
