//! What ends a wait for a slot: an interruption leaves nobody in the queue, and no slot with somebody who has gone.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use postgres::Client;
use testbed::Stop;

use super::ask::{eventually, Ask};
use super::queue::{queued, Waiting};
use super::random::Random;
use super::{FileTest, Test};
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_fast_shutdown_ends_a_wait_for_a_slot", a_fast_shutdown),
    ("a_lost_client_ends_a_wait_for_a_slot", a_lost_client),
    ("a_slot_granted_in_the_moment_of_an_interruption_is_not_lost", no_slot_is_lost),
];

/// One test for each interruption.
pub fn tests() -> Vec<FileTest> {
    INTERRUPTIONS
        .iter()
        .map(|interruption| -> FileTest {
            let name = format!("a_wait_for_a_slot_ends_with_{}", interruption.name);
            (name.clone(), Box::new(move |bed| ends(&bed.database(&name)?, interruption)))
        })
        .collect()
}

/// It takes a tenth of it on a machine with nothing else to do.
const AT_ONCE: Duration = Duration::from_secs(2);

struct Interruption {
    name: &'static str,
    /// What the waiter sets before.
    set: &'static str,
    /// What another session does.
    call: &'static str,
    code: &'static str,
    /// How long after the begin of the wait.
    after: Duration,
}

const INTERRUPTIONS: &[Interruption] = &[
    Interruption {
        name: "a_cancel",
        set: "",
        call: "SELECT pg_cancel_backend(PID)",
        code: "57014",
        after: Duration::ZERO,
    },
    Interruption {
        name: "a_termination",
        set: "",
        call: "SELECT pg_terminate_backend(PID)",
        code: "57P01",
        after: Duration::ZERO,
    },
    Interruption {
        name: "statement_timeout",
        set: "SET statement_timeout = '500 ms'",
        call: "",
        code: "57014",
        after: Duration::from_millis(500),
    },
];

const TAKE: &str = "SELECT rl_try_slot('one', 'key')";
const WAIT: &str = "SELECT rl_slot('one', 'key')";

/// A limiter with one slot, and a session that holds it.
fn holder(database: &Database) -> Result<Client> {
    let mut holder = database.connect()?;
    holder.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    holder.batch_execute(&format!("BEGIN; {TAKE}"))?;
    Ok(holder)
}

fn ends(database: &Database, interruption: &Interruption) -> Result<()> {
    let (mut holder, mut observer) = (holder(database)?, database.connect()?);
    let mut session = database.connect()?;
    session.batch_execute(interruption.set)?;
    let mut start = Instant::now();
    let waiter = Waiting::<bool>::start(session, WAIT)?;
    queued(&mut observer, 1)?;
    if !interruption.call.is_empty() {
        start = Instant::now();
        observer.batch_execute(&interruption.call.replace("PID", &waiter.pid.to_string()))?;
    }
    let (code, time) = waiter.failure(start)?;
    let late = time.saturating_sub(interruption.after);
    eprintln!("{} ended a wait after {late:?}", interruption.name);
    // A session that is terminated may be lost before it hears why.
    ensure!(code.is_none_or(|code| code == interruption.code), "another error");
    ensure!((interruption.after..interruption.after + AT_ONCE).contains(&time), "after {time:?}");

    queued(&mut observer, 0)?;
    holder.batch_execute("COMMIT")?;
    ensure!(observer.ask::<bool>(TAKE)?, "the slot went to a waiter that had gone");
    Ok(())
}

fn a_fast_shutdown(bed: &Bed) -> Result<()> {
    let mut server = bed.private().start()?;
    let database = Database::new(&server, "shutdown")?;
    let (_holder, mut observer) = (holder(&database)?, database.connect()?);
    let waiter = Waiting::<bool>::start(database.connect()?, WAIT)?;
    queued(&mut observer, 1)?;
    let start = Instant::now();
    server.stop(Stop::Fast)?;
    let (_, time) = waiter.failure(start)?;
    eprintln!("a fast shutdown ended a wait after {time:?}");
    ensure!(time < AT_ONCE, "after {time:?}");
    Ok(())
}

fn a_lost_client(bed: &Bed) -> Result<()> {
    let database = bed.database("slots_lost_client")?;
    let (mut holder, mut observer) = (holder(&database)?, database.connect()?);
    let mut psql = database.server().command("psql");
    psql.env("PGDATABASE", database.name());
    psql.env("PGOPTIONS", "-c client_connection_check_interval=100ms");
    let mut client = psql.args(["-X", "-c", WAIT]).stdin(std::process::Stdio::null()).spawn()?;
    queued(&mut observer, 1)?;
    client.kill()?;
    client.wait()?;
    queued(&mut observer, 0)?;
    holder.batch_execute("COMMIT")?;
    ensure!(observer.ask::<bool>(TAKE)?, "the slot went to a waiter that had gone");
    Ok(())
}

/// Waiters give up in the same moments in which the slot is handed on: whoever has it, there is one.
fn no_slot_is_lost(bed: &Bed) -> Result<()> {
    const ROUNDS: u32 = 150;
    let database = bed.database("slots_not_lost")?;
    let (mut holder, mut observer) = (database.connect()?, database.connect()?);
    observer.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    let (mut waiter, mut random, mut granted) = (database.connect()?, Random::new(7), 0);
    for round in 0..ROUNDS {
        let time = 1 + random.below(4);
        let (setting, query) = match round % 3 {
            0 => (format!("{time} ms"), WAIT.to_owned()),
            1 => (format!("{time} ms"), "SELECT rl_session_slot('one', 'key')".to_owned()),
            _ => ("0".to_owned(), format!("SELECT rl_slot('one', 'key', '{time} ms')")),
        };
        holder.batch_execute(&format!("BEGIN; {TAKE}"))?;
        waiter.batch_execute(&format!("SET statement_timeout = '{setting}'"))?;
        let pause = Duration::from_micros(random.below(5_000));
        let answer = std::thread::scope(|scope| -> Result<_> {
            let waiter = &mut waiter;
            let thread = scope.spawn(move || waiter.ask::<bool>(&query));
            std::thread::sleep(pause);
            holder.batch_execute("COMMIT")?;
            thread.join().map_err(|_| anyhow::anyhow!("the waiter panicked"))
        })?;
        granted += u32::from(matches!(answer, Ok(true)));
        waiter.batch_execute(
            "SET statement_timeout = 0; SELECT rl_release_session_slot('one', 'key')",
        )?;
        ensure!(observer.ask::<bool>(TAKE)?, "round {round}: the slot is lost after {answer:?}");
    }
    eprintln!("of {ROUNDS} waits {granted} were granted, and no slot was lost");
    eventually("no lock is left", || {
        let locks = "SELECT count(*) = 0 FROM pg_locks JOIN pg_database AS d ON d.oid = database
            WHERE locktype = 'advisory' AND datname = current_database()";
        observer.ask(locks)
    })
}
