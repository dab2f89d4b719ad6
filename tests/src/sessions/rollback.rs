//! With `on_rollback` = `keep`, what was taken stays taken however its transaction ends; with `refund`, and for durable limiters, it is
//! given back.

use anyhow::{anyhow, ensure, Result};

use super::ask::{ensure_code, eventually, Ask};
use super::kinds::{of_each, Case, KindTest, KINDS};
use super::FileTest;

pub fn tests() -> Vec<FileTest> {
    of_each(&KINDS, TESTS)
}

const TESTS: &[KindTest] = &[
    ("at_rollback", at_rollback),
    ("what_an_error_undoes", at_an_error),
    ("at_rollback_to_savepoint", at_rollback_to_savepoint),
    ("in_an_exception_block", in_an_exception_block),
    ("where_an_enforced_denial_fails", where_an_enforced_denial_fails),
    ("at_statement_timeout", at_statement_timeout),
    ("what_a_cancelled_statement_took", |case| interrupted(case, "pg_cancel_backend")),
    ("what_a_terminated_session_took", |case| interrupted(case, "pg_terminate_backend")),
    ("what_a_terminated_idle_session_took", what_a_terminated_idle_session_took),
    ("what_a_lost_connection_took", what_a_lost_connection_took),
    ("what_a_failed_commit_took", what_a_failed_commit_took),
    ("what_every_call_took", what_every_call_took),
    ("what_triggers_took", what_triggers_took),
    ("what_a_simple_query_of_several_took", what_a_simple_query_of_several_took),
];

/// Takes one, and then has no end.
const TAKE_AND_STAY: &str =
    "DO $$ BEGIN PERFORM rl_try_acquire('api', 'key'); PERFORM pg_sleep(60); END $$";

fn at_rollback(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute("SELECT rl_try_acquire('api', 'key', 2)")?;
    session.batch_execute(
        "BEGIN; SELECT rl_try_acquire('api', 'key'); SELECT rl_penalize('api', 'key', 3);
         SELECT rl_refund('api', 'key', 1)",
    )?;
    // What is taken is taken at once for all.
    case.ensure_left(5, 5)?;
    session.batch_execute("ROLLBACK")?;
    case.ensure_left(8, 5)?;
    // A commit keeps it, and what follows is another transaction.
    session.batch_execute("BEGIN; SELECT rl_try_acquire('api', 'key'); COMMIT; BEGIN; ROLLBACK")?;
    case.ensure_left(7, 4)
}

fn at_an_error(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.refused("SELECT rl_try_acquire('api', 'key'), 1 / (random() * 0)::int")?;
    case.ensure_left(10, 9)?;
    session.refused("BEGIN; SELECT rl_try_acquire('api', 'key'); SELECT 1 / 0")?;
    // Given back as soon as the transaction has failed, not only when somebody says ROLLBACK.
    case.ensure_left(10, 8)?;
    session.batch_execute("COMMIT")?;
    case.ensure_left(10, 8)
}

fn at_rollback_to_savepoint(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute(
        "BEGIN; SELECT rl_try_acquire('api', 'key', 1);
         SAVEPOINT s; SELECT rl_try_acquire('api', 'key', 4); ROLLBACK TO s",
    )?;
    case.ensure_left(9, 5)?;
    session.batch_execute("SELECT rl_try_acquire('api', 'key', 2); ROLLBACK TO s; COMMIT")?;
    case.ensure_left(9, 3)
}

fn in_an_exception_block(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute(
        "DO $$
         BEGIN
             PERFORM rl_try_acquire('api', 'key', 4);
             RAISE 'wrong password';
         EXCEPTION WHEN OTHERS THEN
             PERFORM rl_try_acquire('api', 'key');
         END $$",
    )?;
    case.ensure_left(9, 5)
}

fn where_an_enforced_denial_fails(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    let error = session
        .refused("BEGIN; SELECT rl_enforce('api', 'key', 4); SELECT rl_enforce('api', 'key', 7)")?;
    ensure_code(&error, "PT429")?;
    session.batch_execute("ROLLBACK")?;
    case.ensure_left(10, 6)
}

fn at_statement_timeout(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute("SET statement_timeout = '1 s'")?;
    ensure_code(&session.refused(TAKE_AND_STAY)?, "57014")?;
    case.ensure_left(10, 9)
}

fn interrupted(case: &Case, function: &str) -> Result<()> {
    let mut observer = case.session()?;
    let mut session = case.database.connect()?;
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
    let expected = case.kind.pick(10, 9);
    eventually("it is given back", || Ok(observer.left("api", "key")? == expected))
}

/// Waits until the process is gone.
fn gone(observer: &mut impl Ask, pid: i32) -> Result<()> {
    let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    eventually("the session is gone", || observer.ask(&gone))
}

const TAKE_IN_SAVEPOINTS: &str =
    "BEGIN; SELECT rl_try_acquire('api', 'key'); SAVEPOINT a; SELECT rl_try_acquire('api', 'key', 2);
     SAVEPOINT b; SELECT rl_try_acquire('api', 'key', 3)";

fn what_a_terminated_idle_session_took(case: &Case) -> Result<()> {
    let mut observer = case.session()?;
    let mut session = case.database.connect()?;
    session.batch_execute(TAKE_IN_SAVEPOINTS)?;
    let pid = session.pid()?;
    ensure!(observer.ask::<bool>(&format!("SELECT pg_terminate_backend({pid})"))?);
    gone(&mut observer, pid)?;
    case.ensure_left(10, 4)
}

fn what_a_lost_connection_took(case: &Case) -> Result<()> {
    let mut observer = case.session()?;
    let mut session = case.database.connect()?;
    let pid = session.pid()?;
    session.batch_execute(TAKE_IN_SAVEPOINTS)?;
    drop(session);
    gone(&mut observer, pid)?;
    case.ensure_left(10, 4)
}

fn what_a_failed_commit_took(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute(
        "CREATE TABLE parents (id int PRIMARY KEY);
         CREATE TABLE children (id int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
    )?;
    session.batch_execute(
        "BEGIN; SELECT rl_try_acquire('api', 'key', 3); INSERT INTO children VALUES (1)",
    )?;
    ensure_code(&session.refused("COMMIT")?, "23503")?;
    case.ensure_left(10, 7)
}

fn what_every_call_took(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    let calls = [
        ("rl_try_acquire('api', 'key', 2)", 2),
        ("rl_check('api', 'key', 2)", 2),
        ("rl_enforce('api', 'key', 2)", 2),
        ("rl_take('api', 'key', 3)", 3),
        ("rl_penalize('api', 'key', 4)", 4),
        ("rl_check_all('{api,api}', '{key,key}', '{1,2}')", 3),
        ("rl_check_all('{api,api}', '{other,key}', '{1,2}')", 2),
        ("rl_try_acquire_many('api', '{key,other,key}', '{1,1,2}')", 3),
        ("rl_try_acquire('api', 'key', 0)", 0),
        ("rl_peek('api', 'key', 5)", 0),
    ];
    for (call, cost) in calls {
        session.batch_execute(&format!("BEGIN; SELECT {call}"))?;
        case.ensure_left(10 - cost, 10 - cost)?;
        session.batch_execute("ROLLBACK")?;
        case.ensure_left(10, 10 - cost)?;
        session.batch_execute(&format!("BEGIN; SELECT {call}; COMMIT"))?;
        case.ensure_left(10 - cost, 10 - 2 * cost)?;
        session.batch_execute("SELECT rl_reset('api', 'key')")?;
        case.ensure_left(10, 10)?;
    }
    // A refund gives back, and that is undone as well.
    session.batch_execute("SELECT rl_penalize('api', 'key', 8)")?;
    session.batch_execute("BEGIN; SELECT rl_refund('api', 'key', 5); ROLLBACK")?;
    case.ensure_left(2, 7)?;
    session.batch_execute("BEGIN; SELECT rl_refund('api', 'key', 3); COMMIT")?;
    case.ensure_left(5, 10)
}

fn what_triggers_took(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    session.batch_execute(
        "CREATE TABLE calls (key text);
         CREATE TRIGGER quota BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION rl_limit_row('api', '{key}');
         CREATE TABLE bulk (key text);
         CREATE TRIGGER quota AFTER INSERT ON bulk REFERENCING NEW TABLE AS new_rows
             FOR EACH STATEMENT EXECUTE FUNCTION rl_limit_statement('api', '{key}')",
    )?;
    for table in ["calls", "bulk"] {
        session.batch_execute(&format!(
            "BEGIN; INSERT INTO {table} SELECT 'key' FROM generate_series(1, 3); ROLLBACK"
        ))?;
    }
    case.ensure_left(10, 4)?;
    // Refused in the middle: nothing is inserted.
    let error = session.refused("INSERT INTO calls SELECT 'key' FROM generate_series(1, 11)")?;
    ensure_code(&error, "PT429")?;
    case.ensure_left(10, 0)?;
    session.batch_execute("SELECT rl_reset('api', 'key')")?;
    session.batch_execute(
        "INSERT INTO calls VALUES ('key'); INSERT INTO bulk VALUES ('key'), ('key')",
    )?;
    case.ensure_left(7, 7)
}

fn what_a_simple_query_of_several_took(case: &Case) -> Result<()> {
    let mut session = case.session()?;
    // One implicit transaction; the COMMIT in between ends it.
    session.refused("SELECT rl_try_acquire('api', 'key'); SELECT 1 / 0")?;
    case.ensure_left(10, 9)?;
    session.refused(
        "SELECT rl_try_acquire('api', 'key'); COMMIT; SELECT rl_try_acquire('api', 'key', 2); SELECT 1 / 0",
    )?;
    case.ensure_left(9, 6)
}
