//! Odd ways for a transaction to go on and to end.

use anyhow::{ensure, Context, Result};

use super::ask::{ensure_code, Ask};
use super::kinds::{of_each, Case, Kind, KindTest, KINDS};
use super::{FileTest, Test};
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[("prepared_transactions_keep_nothing_open", prepared)];

pub fn tests() -> Vec<FileTest> {
    let million: &[KindTest] = &[("a_million_takes_in_little_memory", a_million_takes)];
    let mut tests = of_each(&KINDS, EACH);
    tests.extend(of_each(&[Kind::Refund, Kind::Durable], million));
    tests
}

const EACH: &[KindTest] = &[
    ("through_commit_and_chain", commit_and_chain),
    ("through_commits_in_a_procedure", commits_in_a_procedure),
    ("what_a_cursor_with_hold_takes", cursor_with_hold),
    ("what_a_deferred_trigger_takes_at_commit", deferred_trigger),
    ("what_autocommit_functions_took", functions),
    ("in_each_isolation_level", in_each_isolation_level),
];

/// Each transaction ends once: nothing of one is counted with the next.
fn commit_and_chain(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute("BEGIN")?;
    for (end, given_back, kept) in [
        ("COMMIT AND CHAIN", 9, 9),
        ("ROLLBACK AND CHAIN", 9, 8),
        ("COMMIT AND CHAIN", 8, 7),
        ("SAVEPOINT s; ROLLBACK TO s; ROLLBACK AND CHAIN", 8, 6),
        ("COMMIT", 7, 5),
    ] {
        session.batch_execute("SELECT rl_enforce('api', 'key')")?;
        session.batch_execute(end)?;
        case.ensure_left(given_back, kept)?;
    }
    Ok(())
}

fn commits_in_a_procedure(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute(
        "DO $$ BEGIN
             FOR n IN 1..4 LOOP
                 PERFORM rl_enforce('api', 'key');
                 IF n % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF;
             END LOOP;
             PERFORM rl_enforce('api', 'key');
         END $$",
    )?;
    case.ensure_left(7, 5)
}

fn cursor_with_hold(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    let declare = "BEGIN; DECLARE c NO SCROLL CURSOR WITH HOLD FOR
                   SELECT n, rl_try_acquire('api', 'key') FROM generate_series(1, 5) AS n; FETCH 2 FROM c";
    session.batch_execute(declare)?;
    case.ensure_left(8, 8)?;
    // At the commit the rest of the query runs; without NO SCROLL, all of it again.
    session.batch_execute("COMMIT")?;
    case.ensure_left(5, 5)?;
    session.batch_execute("FETCH ALL FROM c; CLOSE c")?;
    case.ensure_left(5, 5)?;
    session.batch_execute(&format!("{declare}; ROLLBACK"))?;
    case.ensure_left(5, 3)
}

fn deferred_trigger(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute(
        "CREATE TABLE calls (n int);
         CREATE FUNCTION enforce() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM rl_enforce('api', 'key', NEW.n);
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER enforce AFTER INSERT ON calls DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION enforce()",
    )?;
    session.batch_execute("BEGIN; INSERT INTO calls VALUES (2), (1)")?;
    case.ensure_left(10, 10)?;
    session.batch_execute("COMMIT")?;
    case.ensure_left(7, 7)?;
    // The last of them does not pass any more: the commit fails, and what the first took comes back.
    session.batch_execute("BEGIN; INSERT INTO calls VALUES (4), (4)")?;
    ensure_code(&session.refused("COMMIT")?, "PT429")?;
    case.ensure_left(7, 3)?;
    ensure!(session.ask::<i64>("SELECT count(*) FROM calls")? == 2);
    Ok(())
}

fn functions(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute(
        "CREATE FUNCTION login(ok boolean) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             PERFORM rl_enforce('api', 'key');
             IF NOT ok THEN RAISE 'wrong password'; END IF;
             RETURN ok;
         END $$",
    )?;
    for _ in 0..2 {
        session.batch_execute("SELECT login(true)")?;
        ensure_code(&session.refused("SELECT login(false)")?, "P0001")?;
    }
    case.ensure_left(8, 6)?;
    // Extended protocol, as drivers use it.
    let login = session.prepare("SELECT login($1)")?;
    session.query(&login, &[&true])?;
    let error = session.query(&login, &[&false]).err().context("no error")?;
    ensure_code(error.as_db_error().context("no answer")?, "P0001")?;
    session.settle();
    case.ensure_left(7, 4)
}

fn in_each_isolation_level(case: &Case) -> Result<()> {
    let (mut session, mut other) = (case.session()?, case.database.connect()?);
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        // With a snapshot that is older than what the other session takes.
        session.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"
        ))?;
        other.batch_execute("SELECT rl_enforce('api', 'key', 3)")?;
        ensure!(session.left("api", "key")? == 7, "{level}: an old count was seen");
        session.batch_execute("SELECT rl_enforce('api', 'key', 2)")?;
        ensure!(!session.ask::<bool>("SELECT rl_try_acquire('api', 'key', 6)")?);
        session.batch_execute("COMMIT").context(level)?;
        ensure!(other.left("api", "key")? == 5);
        session.batch_execute(&format!(
            "BEGIN ISOLATION LEVEL {level}; SELECT rl_enforce('api', 'key', 2); ROLLBACK"
        ))?;
        case.ensure_left(5, 3)?;
        other.batch_execute("SELECT rl_reset('api', 'key')")?;
    }
    Ok(())
}

/// What of the process is resident, in kB.
fn resident(pid: i32) -> Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn a_million_takes(case: &Case) -> Result<()> {
    let mut session = case.database.connect()?;
    let pid = session.pid()?;
    let most = 2_000_000;
    // By the time the first of these is given back, much has come back by itself.
    for (limiter, rates, algorithm) in [
        ("bucket", format!("{most} per 36500 days"), "token_bucket"),
        ("short_bucket", format!("{most} per minute"), "token_bucket"),
        ("window", format!("{most} per 36500 days"), "fixed_window"),
        ("short_window", format!("{most} per 10 ms"), "fixed_window"),
        ("sliding", format!("{most} per 10 ms"), "sliding_window"),
        ("log", "1000 per 5 ms".to_owned(), "sliding_log"),
    ] {
        case.kind.create(&mut session, limiter, &rates, algorithm)?;
        // A query of a million rows would need memory of its own.
        let take = |n| {
            format!("DO $$ BEGIN FOR n IN 1..{n} LOOP PERFORM rl_try_acquire('{limiter}', 'key'); END LOOP; END $$")
        };
        session.batch_execute("BEGIN")?;
        session.batch_execute(&take(1_000))?;
        let before = resident(pid)?;
        session.batch_execute(&take(1_000_000))?;
        let grown = resident(pid)? - before;
        ensure!(grown < 1_024, "{limiter}: {grown} kB more after a million takes");
        let left = session.left(limiter, "key")?;
        ensure!(limiter != "bucket" || left == most - 1_001_000, "{left} left of a bucket");
        session.batch_execute("ROLLBACK")?;
        let left = session.left(limiter, "key")?;
        ensure!(left == if limiter == "log" { 1_000 } else { most }, "{limiter}: {left} left");
    }
    Ok(())
}

fn prepared(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("max_prepared_transactions", "5").start()?;
    let database = Database::new(&server, "prepared")?;
    let (mut session, mut observer) = (database.connect()?, database.connect()?);
    for kind in KINDS {
        let name = kind.name();
        kind.create(&mut session, name, "10 per 36500 days", "token_bucket")?;
        for call in [
            "rl_enforce('NAME', 'key')",
            "rl_penalize('NAME', 'key')",
            "rl_try_acquire_many('NAME', '{key}')",
        ] {
            let call = call.replace("NAME", name);
            session.batch_execute(&format!("BEGIN; SAVEPOINT s; SELECT {call}; RELEASE s"))?;
            if kind == Kind::Keep {
                session.batch_execute("PREPARE TRANSACTION 'p'")?;
                session.batch_execute("ROLLBACK PREPARED 'p'")?;
                continue;
            }
            ensure_code(&session.refused("PREPARE TRANSACTION 'p'")?, "0A000")?;
            let left = observer.left(name, "key")?;
            ensure!(left == 10, "{name}, {call}: {left} left");
            ensure!(observer.ask::<bool>("SELECT count(*) = 0 FROM pg_prepared_xacts")?);
        }
        // Nothing is open: what was taken was rolled back, or nothing was taken.
        session.batch_execute(&format!(
            "BEGIN; SELECT rl_try_acquire('{name}', 'key', 11), rl_peek('{name}', 'key'), rl_try_acquire('{name}', 'key', 0);
             SAVEPOINT s; SELECT rl_try_acquire('{name}', 'key'); ROLLBACK TO s;
             CREATE TABLE of_{name} (); PREPARE TRANSACTION 'p'"
        ))?;
        session.batch_execute("COMMIT PREPARED 'p'")?;
        let left = observer.left(name, "key")?;
        ensure!(left == kind.pick(10, 6), "{name}: {left} left");
    }
    Ok(())
}
