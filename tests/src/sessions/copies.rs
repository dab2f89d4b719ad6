//! More durable keys than memory has room for, and durable limiters where nothing can or need be written.

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{ensure_code, Ask, AGE};
use super::kinds::{Kind, ALGORITHMS};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("durable_keys_are_exact_however_often_they_are_evicted", exact_however_often_evicted),
    ("durable_keys_that_are_held_are_never_evicted", held_keys_are_never_evicted),
    ("a_penalty_that_finds_no_room_is_not_lost", a_penalty_that_finds_no_room),
    ("a_denied_durable_call_writes_nothing", a_denied_durable_call_writes_nothing),
    ("durable_limiters_need_a_transaction_that_can_write", needs_a_writable_transaction),
    ("planning_and_parallel_plans_of_durable_calls", planning_and_parallel_plans),
    ("the_extension_dropped_with_durable_takes_open", dropped_with_takes_open),
    ("durable_limiters_of_two_databases_are_apart", two_databases_are_apart),
];

const NAME: &str = "copies";

fn start(bed: &Bed, max_keys: i64) -> Result<(Server, Client)> {
    let builder = bed.private().setting("ratelimit.max_keys", &max_keys.to_string());
    let server = builder.setting("ratelimit.purge_interval", "0").start()?;
    let mut session = Database::new(&server, NAME)?.connect()?;
    Kind::Durable.create_all(&mut session, 10)?;
    Ok((server, session))
}

fn exact_however_often_evicted(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, 100)?;
    for limiter in ALGORITHMS {
        let mut other = server.connect_to(NAME, "postgres")?;
        for round in 0..4 {
            // In another order each time, so that none is still there by chance; both at the same time.
            let take = |step: i64| {
                format!(
                    "DO $$ BEGIN
                         FOR n IN 0..499 LOOP
                             PERFORM rl_enforce('{limiter}', 'key ' || n * {step} % 500);
                             IF n % 3 = 0 THEN COMMIT; END IF;
                         END LOOP;
                     END $$"
                )
            };
            let (one, two) = (take([1, 3, 7, 11][round]), take([499, 13, 17, 19][round]));
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| other.batch_execute(&two));
                session.batch_execute(&one)?;
                thread.join().ok().context("a session panicked")?.map_err(anyhow::Error::from)
            })?;
            session.ask::<i64>("SELECT rl_purge()")?;
        }
        let left = "SELECT min(remaining) || ' to ' || max(remaining) FROM generate_series(0, 499) AS n, LATERAL rl_peek('NAME', 'key ' || n, 0)";
        let left = left.replace("NAME", limiter);
        let found: String = session.ask(&left)?;
        ensure!(found == "2 to 2", "{limiter}: {found} left");
    }
    server.restart(Stop::Immediate)?;
    let mut session = server.connect_to(NAME, "postgres")?;
    for limiter in ALGORITHMS {
        let taken: i64 = session.ask(&format!(
            "SELECT sum(rl_take('{limiter}', 'key ' || n, 5))::bigint FROM generate_series(0, 9) AS n"
        ))?;
        ensure!(taken == 20, "{limiter}: {taken} of 20 were left");
    }
    Ok(())
}

fn held_keys_are_never_evicted(bed: &Bed) -> Result<()> {
    let (server, mut session) = start(bed, 100)?;
    let mut holder = server.connect_to(NAME, "postgres")?;
    for limiter in ["token_bucket", "fixed_window", "sliding_window"] {
        holder.batch_execute("BEGIN")?;
        let held: i64 = holder.ask(&format!(
            "SELECT count(*) FROM generate_series(1, 2000) AS n WHERE rl_try_acquire('{limiter}', 'key ' || n, 8)"
        ))?;
        ensure!((80..=400).contains(&held), "{limiter}: {held} keys are held");
        // Nobody else finds room, and nobody is let pass uncounted; whatever `on_full` says.
        for setting in ["evict", "deny", "allow"] {
            let query = format!(
                "SELECT count(*) FROM generate_series(1, 2000) AS n WHERE rl_try_acquire('{limiter}', 'key ' || n, 3)"
            );
            session.batch_execute(&format!("SET ratelimit.on_full = {setting}"))?;
            let passed: i64 = session.ask(&query)?;
            ensure!(passed <= 20, "{limiter}, {setting}: {passed} passed");
        }
        session.batch_execute("RESET ratelimit.on_full")?;
        holder.batch_execute("ROLLBACK")?;
        // All is given back.
        session.batch_execute(&format!("SELECT rl_reset_all('{limiter}')"))?;
        let fresh: i64 = session.ask(&format!(
            "SELECT count(*) FROM generate_series(1, 2000) AS n, LATERAL rl_peek('{limiter}', 'key ' || n, 0) WHERE remaining = 10"
        ))?;
        ensure!(fresh == 2_000, "{limiter}: {fresh} of 2000 keys are new");
    }
    Ok(())
}

fn a_penalty_that_finds_no_room(bed: &Bed) -> Result<()> {
    let (server, mut session) = start(bed, 100)?;
    let mut holder = server.connect_to(NAME, "postgres")?;
    holder.batch_execute("BEGIN; SELECT rl_try_acquire('token_bucket', 'key ' || n) FROM generate_series(1, 2000) AS n")?;
    let mut charged = 0;
    for n in 1..=20 {
        charged += i64::from(
            session
                .batch_execute(&format!("SELECT rl_penalize('token_bucket', 'bad {n}', 5)"))
                .is_ok(),
        );
    }
    holder.batch_execute("ROLLBACK")?;
    let found: i64 = session.ask(
        "SELECT count(*) FROM generate_series(1, 20) AS n, LATERAL rl_peek('token_bucket', 'bad ' || n, 0) WHERE remaining = 5",
    )?;
    ensure!(found == charged, "{charged} penalties were accepted, {found} count");
    Ok(())
}

const UNASSIGNED: &str = "SELECT pg_current_xact_id_if_assigned() IS NULL";

fn rows(session: &mut Client) -> Result<i64> {
    session.ask("SELECT (SELECT count(*) FROM rl_ledger_0) + (SELECT count(*) FROM rl_ledger_1) + (SELECT count(*) FROM rl_counts)")
}

fn a_denied_durable_call_writes_nothing(bed: &Bed) -> Result<()> {
    let (server, mut session) = start(bed, 1_000)?;
    let mut observer = server.connect_to(NAME, "postgres")?;
    for limiter in ALGORITHMS {
        session.batch_execute(&format!("SELECT rl_take('{limiter}', 'key', 10)"))?;
        let before = rows(&mut observer)?;
        let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let xid: String = observer.ask(next)?;
        for call in [
            "rl_try_acquire('NAME', 'key')",
            "rl_check('NAME', 'key')",
            "rl_check('NAME', 'key', 0)",
            "rl_peek('NAME', 'key')",
            "rl_take('NAME', 'key', 5)",
            "rl_check_all('{NAME,NAME}', '{other,key}')",
            "rl_try_acquire_many('NAME', '{key,key}')",
            "rl_http_headers('NAME', 'key')",
        ] {
            session.batch_execute(&format!("BEGIN; SELECT {}", call.replace("NAME", limiter)))?;
            ensure!(session.ask::<bool>(UNASSIGNED)?, "{call} took a transaction id");
            session.batch_execute("COMMIT")?;
        }
        // A grant takes one only at the commit, and a rollback none.
        session.batch_execute(&format!("BEGIN; SELECT rl_enforce('{limiter}', 'other')"))?;
        ensure!(session.ask::<bool>(UNASSIGNED)?, "a grant took a transaction id at once");
        session.batch_execute("ROLLBACK")?;
        session.batch_execute(&format!(
            "BEGIN; SELECT rl_enforce('{limiter}', 'other'), rl_refund('{limiter}', 'other'); COMMIT"
        ))?;
        ensure!(observer.ask::<String>(next)? == xid, "{limiter}: a transaction id was taken");
        ensure!(rows(&mut observer)? == before, "{limiter}: rows were written");
        session.batch_execute(&format!("SELECT rl_enforce('{limiter}', 'other')"))?;
        ensure!(rows(&mut observer)? == before + 1);
    }
    Ok(())
}

fn needs_a_writable_transaction(bed: &Bed) -> Result<()> {
    let (_server, mut session) = start(bed, 1_000)?;
    session.batch_execute(
        "SELECT rl_create_limiter('memory', '10 per day');
         CREATE TABLE calls (key text);
         CREATE TRIGGER quota BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION rl_limit_row('token_bucket', '{key}')",
    )?;
    for call in [
        "rl_try_acquire('token_bucket', 'key')",
        "rl_check('token_bucket', 'key')",
        "rl_peek('token_bucket', 'key')",
        "rl_enforce('token_bucket', 'key')",
        "rl_take('token_bucket', 'key', 1)",
        "rl_refund('token_bucket', 'key')",
        "rl_penalize('token_bucket', 'key')",
        "rl_check_all('{memory,token_bucket}', '{key,key}')",
        "rl_try_acquire_many('token_bucket', '{key}')",
        "rl_http_headers('token_bucket', 'key')",
        "rl_reset('token_bucket', 'key')",
        "rl_reset_all('token_bucket')",
    ] {
        let error = session.refused(&format!("BEGIN READ ONLY; SELECT {call}"))?;
        ensure_code(&error, "25006").context(call)?;
        ensure!(
            error.hint().is_some_and(|hint| hint.contains("memory")),
            "{call}: {:?}",
            error.hint()
        );
        session.batch_execute("ROLLBACK")?;
    }
    ensure!(session.left("memory", "key")? == 10, "a refused call took from the memory limiter");
    // What was taken before it became read-only is counted.
    session.batch_execute(
        "BEGIN; SELECT rl_enforce('token_bucket', 'key'); SET TRANSACTION READ ONLY; SELECT 1; COMMIT",
    )?;
    ensure!(session.left("token_bucket", "key")? == 9);
    Ok(())
}

fn planning_and_parallel_plans(bed: &Bed) -> Result<()> {
    let (server, mut session) = start(bed, 1_000)?;
    session.batch_execute("EXPLAIN (VERBOSE) SELECT rl_try_acquire('token_bucket', 'key')")?;
    session.prepare("SELECT rl_try_acquire('token_bucket', 'key')")?;
    ensure!(session.left("token_bucket", "key")? == 10, "planning took one");
    session.batch_execute("EXPLAIN (ANALYZE) SELECT rl_try_acquire('token_bucket', 'key')")?;
    ensure!(session.left("token_bucket", "key")? == 9);
    let force =
        if server.tree().major >= 16 { "debug_parallel_query" } else { "force_parallel_mode" };
    session.batch_execute(&format!(
        "SET {force} = on;
         CREATE TABLE calls AS SELECT n % 5 AS key FROM generate_series(1, 20000) AS n; ANALYZE calls;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0"
    ))?;
    for limiter in ALGORITHMS {
        let query = format!("SELECT count(*) FILTER (WHERE rl_try_acquire('{limiter}', 'p' || key)) FROM calls WHERE sqrt(key) >= 0");
        let admitted: i64 = session.ask(&query)?;
        ensure!(admitted == 50, "{limiter}: {admitted} admitted of 10 for each of 5 keys");
    }
    Ok(())
}

fn dropped_with_takes_open(bed: &Bed) -> Result<()> {
    let (mut server, mut session) = start(bed, 1_000)?;
    let take =
        "BEGIN; SELECT rl_enforce('token_bucket', 'key', 3), rl_enforce('sliding_log', 'key', 3)";
    // In the same transaction, and in another.
    session.batch_execute(take)?;
    session.batch_execute("DROP EXTENSION ratelimit; COMMIT")?;
    for create in ["", "CREATE EXTENSION ratelimit"] {
        session.batch_execute("CREATE EXTENSION ratelimit")?;
        Kind::Durable.create_all(&mut session, 10)?;
        ensure!(session.left("token_bucket", "key")? == 10, "a new limiter is not new");
        let mut open = server.connect_to(NAME, "postgres")?;
        open.batch_execute(take)?;
        session.batch_execute(&format!(
            "SET lock_timeout = '5 s'; DROP EXTENSION ratelimit; {create}"
        ))?;
        open.batch_execute("COMMIT")?;
        session.batch_execute("DROP EXTENSION IF EXISTS ratelimit")?;
    }
    session.batch_execute("CREATE SCHEMA \"Odd one\"; CREATE EXTENSION ratelimit SCHEMA \"Odd one\"; SET search_path = \"Odd one\", public")?;
    Kind::Durable.create_all(&mut session, 10)?;
    take_purge_take(&mut session)?;
    server.restart(Stop::Immediate)?;
    let mut session = server.connect_to(NAME, "postgres")?;
    session.batch_execute("SET search_path = \"Odd one\", public")?;
    ensure!(session.left("token_bucket", "key")? == 6);
    let _ = AGE;
    Ok(())
}

/// Takes 3, and 1 after house was kept.
fn take_purge_take(session: &mut Client) -> Result<()> {
    session.batch_execute("SELECT rl_enforce('token_bucket', 'key', 3)")?;
    session.ask::<i64>("SELECT rl_purge()")?;
    Ok(session.batch_execute("SELECT rl_enforce('token_bucket', 'key')")?)
}

fn two_databases_are_apart(bed: &Bed) -> Result<()> {
    let (server, mut session) = start(bed, 1_000)?;
    take_purge_take(&mut session)?;
    drop(session);
    // A copy has what the tables say, the same limiters with the same ids, and counts by itself.
    let mut admin = server.connect()?;
    super::ask::eventually("the session is gone", || {
        admin.ask("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'copies'")
    })?;
    admin.batch_execute("CREATE DATABASE other TEMPLATE copies")?;
    let (mut one, mut other) =
        (server.connect_to(NAME, "postgres")?, server.connect_to("other", "postgres")?);
    other.batch_execute("SELECT rl_enforce('token_bucket', 'key', 5)")?;
    let left = (one.left("token_bucket", "key")?, other.left("token_bucket", "key")?);
    ensure!(left == (6, 1), "{left:?} left");
    Ok(())
}
