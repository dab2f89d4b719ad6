//! A slot goes to the first who waits for it, in the moment in which its holder gives it back, however that is.

use std::time::Instant;

use anyhow::{ensure, Context, Result};
use postgres::Client;

use super::ask::{eventually, Ask};
use super::queue::{queued, Waiting};
use super::{FileTest, Test};
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("fifty_waiters_are_served_in_their_order", fifty_waiters),
    ("a_lease_is_held_by_its_token_and_by_no_session", a_lease_is_held_by_its_token),
    ("waiters_obey_a_limit_that_changes", waiters_obey_a_limit_that_changes),
    ("waiters_forget_a_limit_that_was_rolled_back", waiters_forget_a_limit),
    ("a_waiter_obeys_what_is_said_of_its_key_meanwhile", what_is_said_meanwhile),
    ("a_waiter_hears_that_its_limiter_was_dropped", a_dropped_limiter),
    ("dropping_the_extension_leaves_no_slot_behind", dropping_the_extension),
];

/// One test for each way to give back.
pub fn tests() -> Vec<FileTest> {
    WAYS.iter()
        .map(|way| -> FileTest {
            let name = format!("a_slot_is_handed_on_{}", way.name);
            (name.clone(), Box::new(move |bed| handed_on(&bed.database(&name)?, way)))
        })
        .collect()
}

/// A way to hold a slot, and to give it back.
struct Way {
    name: &'static str,
    take: &'static str,
    /// By the session that took it.
    end: &'static str,
}

const TAKE: &str = "SELECT rl_try_slot('one', 'key')";
const TAKE_FOR_SESSION: &str = "SELECT rl_try_session_slot('one', 'key')";
const LEASE: &str = "SELECT rl_try_lease('one', 'key', '1 hour')";

const WAYS: &[Way] = &[
    Way { name: "at_commit", take: TAKE, end: "COMMIT" },
    Way { name: "at_rollback", take: TAKE, end: "ROLLBACK" },
    Way { name: "by_rollback_to_a_savepoint", take: TAKE, end: "ROLLBACK TO s" },
    Way { name: "by_an_error", take: TAKE, end: "SELECT 1 / 0" },
    Way { name: "by_a_session_that_ends", take: TAKE, end: END },
    Way {
        name: "when_it_is_released",
        take: TAKE_FOR_SESSION,
        end: "SELECT rl_release_session_slot('one', 'key')",
    },
    Way {
        name: "by_unlocking_all",
        take: TAKE_FOR_SESSION,
        end: "SELECT pg_advisory_unlock_all(); COMMIT",
    },
    Way { name: "by_discarding_all", take: TAKE_FOR_SESSION, end: "COMMIT; DISCARD ALL" },
    Way { name: "by_the_end_of_its_session", take: TAKE_FOR_SESSION, end: END },
    Way {
        name: "when_its_lease_is_released",
        take: LEASE,
        end: "SELECT rl_release_lease(token) FROM rl_slots",
    },
    Way {
        name: "when_its_lease_is_over",
        take: LEASE,
        end: "SELECT rl_renew_lease(token, '1 ms') FROM rl_slots",
    },
];

const END: &str = "SELECT pg_terminate_backend(pg_backend_pid())";

/// Who holds slots in this database, by key.
fn holders(observer: &mut Client) -> Result<Vec<Option<i32>>> {
    let rows = observer.query("SELECT pid FROM rl_slots ORDER BY key, since", &[])?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn handed_on(database: &Database, way: &Way) -> Result<()> {
    let (mut holder, mut observer) = (database.connect()?, database.connect()?);
    observer.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    holder.batch_execute(&format!("BEGIN; SAVEPOINT s; {}", way.take))?;
    let mut waiter = database.connect()?;
    waiter.batch_execute("BEGIN")?;
    let waiting = Waiting::<bool>::start(waiter, "SELECT rl_slot('one', 'key')")?;
    let pid = waiting.pid;
    queued(&mut observer, 1)?;
    ensure!(!observer.ask::<bool>(TAKE)?, "a newcomer took it");

    // Some of these are errors.
    for statement in way.end.split("; ") {
        let _ = holder.batch_execute(statement);
    }
    let (mut waiter, granted) = waiting.answer()?;
    ensure!(granted, "the waiter gave up");
    ensure!(holders(&mut observer)? == [Some(pid)], "it is not the waiter's alone");
    ensure!(!observer.ask::<bool>(TAKE)?, "a newcomer took it");
    waiter.batch_execute("COMMIT")?;
    ensure!(observer.ask::<bool>(TAKE)?, "it was not given back");
    Ok(())
}

/// Whoever has the token may renew or release it, whatever became of who took it.
fn a_lease_is_held_by_its_token(bed: &Bed) -> Result<()> {
    let database = bed.database("slots_token")?;
    let (mut taker, mut other) = (database.connect()?, database.connect()?);
    taker.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    taker.batch_execute("BEGIN")?;
    let token: String = taker.ask("SELECT rl_try_lease('one', 'key', '1 hour')::text")?;
    taker.batch_execute("ROLLBACK")?;
    taker.close()?;
    ensure!(!other.ask::<bool>(TAKE)?, "it ended with who took it");
    ensure!(other.ask::<bool>(&format!("SELECT rl_renew_lease('{token}', '2 hours')"))?);
    ensure!(other.ask::<bool>(&format!("SELECT rl_release_lease('{token}')"))?);
    ensure!(other.ask::<bool>(TAKE)?, "it was not given back");
    Ok(())
}

const WAITERS: i64 = 50;
/// These leave before it is their turn.
const CANCELLED: i64 = 25;
const TERMINATED: i64 = 33;

fn fifty_waiters(bed: &Bed) -> Result<()> {
    let server = bed.private().start()?;
    let database = Database::new(&server, "fifty")?;
    let mut observer = database.connect()?;
    observer.batch_execute(
        "SELECT rl_create_limiter('one', max_concurrent => 1); CREATE SEQUENCE turns",
    )?;
    let mut holder = database.connect()?;
    holder.batch_execute(&format!("BEGIN; {TAKE}"))?;
    let mut waiters = Vec::new();
    for n in 1..=WAITERS {
        // The columns of a row are computed in order, and each waiter's statement ends before the next one's wait.
        let query = match n % 3 {
            0 => "SELECT CASE WHEN rl_session_slot('one', 'key') THEN nextval('turns') END, rl_release_session_slot('one', 'key')",
            1 => "SELECT CASE WHEN rl_slot('one', 'key') THEN nextval('turns') END",
            _ => "SELECT CASE WHEN (rl_acquire('one', 'key')).allowed THEN nextval('turns') END",
        };
        waiters.push((n, Waiting::<i64>::start(database.connect()?, query)?));
        queued(&mut observer, n)?;
    }
    let leaves = |n: i64| [CANCELLED, TERMINATED].contains(&n);
    let (leaving, staying): (Vec<_>, Vec<_>) = waiters.into_iter().partition(|(n, _)| leaves(*n));
    for (n, waiter) in leaving {
        let function = match n {
            CANCELLED => "pg_cancel_backend",
            _ => "pg_terminate_backend",
        };
        observer.batch_execute(&format!("SELECT {function}({})", waiter.pid))?;
        waiter.failure(Instant::now())?;
    }
    queued(&mut observer, WAITERS - 2)?;

    let start = Instant::now();
    holder.batch_execute("COMMIT")?;
    for ((n, waiter), turn) in staying.into_iter().zip(1..) {
        let (_, served) = waiter.answer().with_context(|| format!("waiter {n}"))?;
        ensure!(served == turn, "waiter {n} was served as number {served} instead of {turn}");
    }
    let served = WAITERS - 2;
    eprintln!("{served} waiters were served one after another in {:?}", start.elapsed());
    ensure!(holders(&mut observer)?.is_empty(), "somebody still has the slot");
    Ok(())
}

fn what_is_said_meanwhile(bed: &Bed) -> Result<()> {
    let database = bed.database("slots_said_meanwhile")?;
    let mut admin = database.connect()?;
    admin.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    let waits = [
        "SELECT rl_slot('one', 'key')",
        "SELECT rl_session_slot('one', 'key')",
        "SELECT rl_lease('one', 'key', '1 hour') IS NOT NULL",
        "SELECT allowed FROM rl_acquire('one', 'key')",
    ];
    for wait in waits {
        for (said, expected) in [
            ("SELECT rl_ban('one', 'key', NULL)", false),
            (
                "INSERT INTO rl_overrides (limiter, key, action) VALUES ('one', 'key', 'deny')",
                false,
            ),
            ("SELECT rl_try_slot('one', 'other')", true),
        ] {
            let mut holder = database.connect()?;
            holder.batch_execute(&format!("BEGIN; {TAKE}"))?;
            let mut session = database.connect()?;
            session.batch_execute("BEGIN")?;
            let waiting: Waiting<bool> = Waiting::start(session, wait)?;
            queued(&mut admin, 1)?;
            admin.batch_execute(said)?;
            holder.batch_execute("COMMIT")?;
            let (session, answer) = waiting.answer()?;
            ensure!(answer == expected, "{wait}, {said}: {answer}");
            let held = holders(&mut admin)?;
            ensure!(held.is_empty() != expected, "{wait}, {said}: {held:?}");
            drop(session);
            admin.batch_execute("DELETE FROM rl_overrides; SELECT rl_unban('one', 'key')")?;
            let release = "SELECT rl_release_lease(token) FROM rl_slots WHERE kind = 'lease'";
            admin.batch_execute(release)?;
            eventually("all is free", || Ok(holders(&mut admin)?.is_empty()))?;
        }
    }
    Ok(())
}

fn waiters_obey_a_limit_that_changes(bed: &Bed) -> Result<()> {
    let database = bed.database("slots_limit_changes")?;
    let (mut holder, mut observer) = (database.connect()?, database.connect()?);
    observer.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    holder.batch_execute(&format!("BEGIN; {TAKE}"))?;
    let wait = || -> Result<Waiting<bool>> {
        let mut session = database.connect()?;
        session.batch_execute("BEGIN")?;
        Waiting::start(session, "SELECT rl_slot('one', 'key')")
    };
    let (first, second) = (wait()?, wait()?);
    queued(&mut observer, 2)?;

    // A change that is not committed is nobody else's.
    let mut admin = database.connect()?;
    admin.batch_execute("BEGIN; UPDATE rl_limiters SET max_concurrent = 3; ROLLBACK")?;
    queued(&mut observer, 2)?;
    admin.batch_execute("UPDATE rl_limiters SET max_concurrent = 3")?;
    let ((mut first, one), (mut second, two)) = (first.answer()?, second.answer()?);
    ensure!(one && two, "a waiter gave up");
    ensure!(holders(&mut observer)?.len() == 3);

    // Lowered, nobody has to go; but others wait until there are few enough.
    let third = wait()?;
    let pid = third.pid;
    queued(&mut observer, 1)?;
    admin.batch_execute("UPDATE rl_limiters SET max_concurrent = 2")?;
    for session in [&mut holder, &mut first] {
        queued(&mut observer, 1)?;
        session.batch_execute("COMMIT")?;
    }
    let (mut third, three) = third.answer()?;
    ensure!(three && holders(&mut observer)?.contains(&Some(pid)));
    // At 0 there is none to be had.
    admin.batch_execute("UPDATE rl_limiters SET max_concurrent = 0")?;
    second.batch_execute("COMMIT")?;
    third.batch_execute("COMMIT")?;
    ensure!(!observer.ask::<bool>(TAKE)? && holders(&mut observer)?.is_empty());
    Ok(())
}

/// A new limiter, whose only slot is held, and a session that waits for it.
fn waiting(
    database: &Database,
    holder: &mut Client,
    observer: &mut Client,
) -> Result<Waiting<bool>> {
    observer.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    holder.batch_execute(&format!("BEGIN; {TAKE}"))?;
    let waiter = Waiting::start(database.connect()?, "SELECT rl_slot('one', 'key')")?;
    queued(observer, 1)?;
    Ok(waiter)
}

/// A limit that was lowered for a transaction alone keeps nobody from what is given back later.
fn waiters_forget_a_limit(bed: &Bed) -> Result<()> {
    let database = bed.database("slots_limit_rolled_back")?;
    let (mut holder, mut observer) = (database.connect()?, database.connect()?);
    let waiter = waiting(&database, &mut holder, &mut observer)?;
    observer.batch_execute("BEGIN; UPDATE rl_limiters SET max_concurrent = 0")?;
    ensure!(!observer.ask::<bool>(TAKE)?);
    observer.batch_execute("ROLLBACK")?;
    queued(&mut observer, 1)?;
    holder.batch_execute("COMMIT")?;
    ensure!(waiter.answer()?.1, "the waiter gave up");
    Ok(())
}

fn a_dropped_limiter(bed: &Bed) -> Result<()> {
    let database = bed.database("slots_dropped_limiter")?;
    let (mut holder, mut observer) = (database.connect()?, database.connect()?);
    let waiter = waiting(&database, &mut holder, &mut observer)?;
    observer.batch_execute("SELECT rl_drop_limiter('one')")?;
    waiter.ensure_refused("42704")?;
    ensure!(holders(&mut observer)?.len() == 1, "the holder had to go");
    holder.batch_execute("COMMIT")?;
    ensure!(holders(&mut observer)?.is_empty(), "the slot was not given back");

    // Another of the same name is another limiter.
    let waiter = waiting(&database, &mut holder, &mut observer)?;
    observer.batch_execute(
        "BEGIN; SELECT rl_drop_limiter('one'), rl_create_limiter('one', max_concurrent => 1); COMMIT",
    )?;
    waiter.ensure_refused("42704")?;
    ensure!(observer.ask::<bool>(TAKE)?, "it did not start afresh");
    observer.batch_execute("SELECT rl_drop_limiter('one')")?;
    holder.batch_execute("COMMIT")?;

    // One that has no slots any more.
    let waiter = waiting(&database, &mut holder, &mut observer)?;
    observer.batch_execute("UPDATE rl_limiters SET max_concurrent = NULL")?;
    waiter.ensure_refused("22023")
}

fn dropping_the_extension(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "100ms").start()?;
    let database = Database::new(&server, "dropping")?;
    let (mut holder, mut observer) = (database.connect()?, database.connect()?);
    let waiter = waiting(&database, &mut holder, &mut observer)?;
    holder.batch_execute("SELECT rl_try_lease('one', 'other', '1 s')")?;
    observer.batch_execute("DROP EXTENSION ratelimit")?;
    // The waiter's turn comes when the holder has gone, whatever became of the extension.
    holder.batch_execute("COMMIT")?;
    ensure!(waiter.answer()?.1, "the waiter gave up");

    observer.batch_execute("CREATE EXTENSION ratelimit")?;
    observer.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    ensure!(observer.ask::<bool>(TAKE)?, "it did not start afresh");
    eventually("all slots are free", || {
        observer.ask("SELECT slots = 0 AND NOT EXISTS (SELECT FROM rl_slots) FROM rl_info()")
    })
}
