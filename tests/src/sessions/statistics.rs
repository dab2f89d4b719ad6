//! Statistics of several sessions, and over restarts.

use anyhow::{ensure, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{eventually, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("statistics_of_sessions_add_up", sessions_add_up),
    ("statistics_come_when_the_transaction_ends", they_come_when_the_transaction_ends),
    ("statistics_of_a_session_that_ends_are_not_lost", a_session_that_ends),
    ("statistics_show_keys_that_were_forgotten_meanwhile", keys_forgotten_meanwhile),
    ("statistics_of_what_was_dropped_make_room", what_was_dropped_makes_room),
    ("statistics_have_places_for_1024_limiters", places_for_1024_limiters),
    ("statistics_without_preload", without_preload),
    ("statistics_survive_a_restart", survive_a_restart),
    ("statistics_go_back_to_the_last_save_in_a_crash", go_back_to_the_last_save),
];

/// What was allowed and denied.
fn counted(session: &mut Client, limiter: &str) -> Result<(i64, i64)> {
    let row = session.query_one(
        "SELECT allowed, denied FROM rl_stat_limiters WHERE limiter = $1",
        &[&limiter],
    )?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// The key that was denied most, how often it was allowed, and how often denied.
fn first_key(session: &mut Client, limiter: &str) -> Result<Option<(String, i64, i64)>> {
    let row =
        session.query_opt("SELECT key, allowed, denied FROM rl_stat_keys($1, 1)", &[&limiter])?;
    Ok(row.map(|row| (row.get(0), row.get(1), row.get(2))))
}

fn sessions_add_up(bed: &Bed) -> Result<()> {
    let database = bed.database("statistics_add_up")?;
    let (mut one, mut other) = (database.connect()?, database.connect()?);
    one.limiter("api", 4)?;
    for _ in 0..3 {
        one.takes("api", "key")?;
        other.takes("api", "key")?;
    }
    ensure!(counted(&mut one, "api")? == (4, 2));
    ensure!(counted(&mut other, "api")? == (4, 2));
    // Each session has allowed it twice, and denied it once.
    ensure!(first_key(&mut one, "api")? == Some(("key".into(), 4, 2)));

    // From then on all sessions see that the key is one of those.
    one.batch_execute("SELECT rl_reset('api', 'key')")?;
    let mut third = database.connect()?;
    ensure!(third.takes("api", "key")?);
    drop(third);
    eventually(
        "the session's end",
        || Ok(first_key(&mut one, "api")? == Some(("key".into(), 5, 2))),
    )
}

fn they_come_when_the_transaction_ends(bed: &Bed) -> Result<()> {
    let database = bed.database("statistics_at_the_end")?;
    let (mut one, mut other) = (database.connect()?, database.connect()?);
    one.limiter("api", 1)?;
    for end in ["COMMIT", "ROLLBACK"] {
        one.batch_execute("SELECT rl_stat_reset(), rl_reset('api', 'key')")?;
        one.batch_execute(
            "BEGIN; SELECT rl_try_acquire('api', 'key'), rl_try_acquire('api', 'key')",
        )?;
        ensure!(counted(&mut other, "api")? == (0, 0));
        ensure!(counted(&mut one, "api")? == (1, 1), "it sees its own");
        one.batch_execute("SELECT rl_try_acquire('api', 'key')")?;
        ensure!(counted(&mut other, "api")? == (1, 1));
        one.batch_execute(end)?;
        ensure!(counted(&mut other, "api")? == (1, 2), "{end}");
        ensure!(first_key(&mut other, "api")? == Some(("key".into(), 1, 2)), "{end}");
    }
    Ok(())
}

fn a_session_that_ends(bed: &Bed) -> Result<()> {
    let database = bed.database("statistics_session_end")?;
    let (mut one, mut other) = (database.connect()?, database.connect()?);
    one.limiter("api", 1)?;
    one.batch_execute("BEGIN; SELECT rl_try_acquire('api', 'key'), rl_try_acquire('api', 'key')")?;
    let pid = one.pid()?;
    other.execute("SELECT pg_terminate_backend($1, 10000)", &[&pid])?;
    ensure!(counted(&mut other, "api")? == (1, 1));
    ensure!(first_key(&mut other, "api")? == Some(("key".into(), 1, 1)));
    Ok(())
}

fn keys_forgotten_meanwhile(bed: &Bed) -> Result<()> {
    let database = bed.database("statistics_forgotten")?;
    let (mut one, mut other) = (database.connect()?, database.connect()?);
    one.limiter("api", 2)?;
    one.batch_execute("SELECT rl_try_acquire('api', 'key', 3)")?;
    // The other session sees that the key is tracked, and need not tell what it is called. Then it is not tracked any more.
    other.batch_execute("BEGIN; SELECT rl_try_acquire('api', 'key')")?;
    one.batch_execute("SELECT rl_stat_reset()")?;
    other.batch_execute("SELECT rl_try_acquire('api', 'key', 3); COMMIT")?;
    ensure!(first_key(&mut one, "api")? == Some(("key".into(), 1, 1)));
    Ok(())
}

/// How many limiters are counted, of all databases.
const PLACES: i64 = 1_024;

/// Asks so many new limiters once; says how many of them are counted.
fn fill(session: &mut Client, name: &str, count: i64) -> Result<i64> {
    session.batch_execute(&format!(
        "INSERT INTO rl_limiters (name) SELECT '{name}' || n FROM generate_series(1, {count}) AS n;
         INSERT INTO rl_rules (limiter, quota, period) SELECT '{name}' || n, 1, '1 day' FROM generate_series(1, {count}) AS n;
         SELECT count(rl_try_acquire('{name}' || n, 'key')) FROM generate_series(1, {count}) AS n"
    ))?;
    session
        .ask(&format!("SELECT count(allowed) FROM rl_stat_limiters WHERE limiter LIKE '{name}%'"))
}

fn places_for_1024_limiters(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let mut session = Database::new(&server, "one")?.connect()?;
    ensure!(fill(&mut session, "a", PLACES)? == PLACES);
    ensure!(fill(&mut session, "b", 1)? == 0, "there is no room, and it says so");
    // Who needs a place finds those of limiters that were dropped.
    session.batch_execute("DELETE FROM rl_limiters WHERE name IN ('a1', 'a2')")?;
    ensure!(fill(&mut session, "c", 3)? == 2);
    ensure!(
        session.ask::<i64>("SELECT count(*) FROM rl_stat_limiters WHERE allowed = 1")? == PLACES
    );
    // And those of databases.
    let mut other = Database::new(&server, "other")?.connect()?;
    ensure!(fill(&mut other, "d", 1)? == 0);
    drop(session);
    other.batch_execute("DROP DATABASE one WITH (FORCE)")?;
    ensure!(fill(&mut other, "e", PLACES - 1)? == PLACES - 1);
    Ok(())
}

fn what_was_dropped_makes_room(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "100ms").start()?;
    let one = Database::new(&server, "one")?;
    let mut session = one.connect()?;
    ensure!(fill(&mut session, "a", PLACES)? == PLACES);
    // House-keeping does it soon after the commit; nobody has to look for room.
    session.batch_execute("DELETE FROM rl_limiters")?;
    let mut other = Database::new(&server, "other")?.connect()?;
    other.batch_execute("SELECT rl_create_limiter('b', '1 per day')")?;
    eventually("room", || {
        Ok(other.ask::<Option<i64>>("SELECT allowed FROM rl_stat_limiters")?.is_some())
    })
}

fn without_preload(bed: &Bed) -> Result<()> {
    let server = bed.private().preload(false).start()?;
    let database = Database::new(&server, "plain")?;
    let (mut one, mut other) = (database.connect()?, database.connect()?);
    one.batch_execute("SELECT rl_create_limiter('api', '1 per day', storage => 'durable')")?;
    ensure!(one.takes("api", "key")? && !one.takes("api", "key")? && !other.takes("api", "key")?);
    if server.tree().major >= 17 {
        ensure!(counted(&mut other, "api")? == (1, 2));
        ensure!(first_key(&mut one, "api")? == Some(("key".into(), 1, 2)));
    } else {
        // Sessions share nothing, and so there is nothing to see.
        ensure!(one.ask::<Option<i64>>("SELECT allowed FROM rl_stat_limiters")?.is_none());
        ensure!(first_key(&mut one, "api")?.is_none());
    }
    one.batch_execute("SELECT rl_stat_reset()")?;
    Ok(())
}

/// All that is counted, and the denied keys.
const ALL: &str = "
    SELECT string_agg(format('%s %s', s, k), E'\\n' ORDER BY s.limiter, k.denied)
      FROM rl_stat_limiters AS s LEFT JOIN LATERAL rl_stat_keys(s.limiter, 100) AS k ON true";

fn use_some(bed: &Bed) -> Result<Server> {
    let server = bed.private().setting("restart_after_crash", "on").start()?;
    let mut session = Database::new(&server, "saved")?.connect()?;
    session.batch_execute(
        "SELECT rl_create_limiter('api ' || n, n || ' per day') FROM generate_series(1, 70) AS n;
         SELECT rl_try_acquire('api ' || n, 'key ' || k, 2) FROM generate_series(1, 70) AS n, generate_series(1, 10) AS k, generate_series(1, k);
         SELECT rl_acquire('api 1', 'a', 1, '1 s') FROM generate_series(1, 2)",
    )?;
    Ok(server)
}

fn survive_a_restart(bed: &Bed) -> Result<()> {
    let mut server = use_some(bed)?;
    let all: String = server.connect_to("saved", "postgres")?.ask(ALL)?;
    for _ in 0..2 {
        server.restart(Stop::Fast)?;
        let found: String = server.connect_to("saved", "postgres")?.ask(ALL)?;
        ensure!(found == all, "{all}\nbecame\n{found}");
    }
    // And are counted on.
    let mut session = server.connect_to("saved", "postgres")?;
    session.batch_execute("SELECT rl_try_acquire('api 10', 'key 10', 2)")?;
    ensure!(first_key(&mut session, "api 10")? == Some(("key 10".into(), 5, 6)));
    Ok(())
}

fn go_back_to_the_last_save(bed: &Bed) -> Result<()> {
    let mut server = use_some(bed)?;
    server.restart(Stop::Fast)?;
    let mut session = server.connect_to("saved", "postgres")?;
    let all: String = session.ask(ALL)?;
    session.batch_execute("SELECT rl_try_acquire('api 7', 'another', 100)")?;
    ensure!(session.ask::<String>(ALL)? != all);
    let pid = session.pid()?;
    server.crash(pid)?;
    let found: String = server.connect_to("saved", "postgres")?.ask(ALL)?;
    ensure!(found == all, "{all}\nbecame\n{found}");
    Ok(())
}
