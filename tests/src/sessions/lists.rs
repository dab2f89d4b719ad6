//! Overrides and bans, seen by other sessions, after a restart and by other servers. Interleavings of two sessions are in
//! `isolation/specs`.

use anyhow::{ensure, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{eventually, Ask, AGE};
use super::kinds::Kind;
use super::standby::standby_of;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_ban_and_its_end_are_obeyed_at_once_by_every_session", a_ban_and_its_end),
    ("a_durable_ban_is_obeyed_from_its_commit_on", a_durable_ban),
    ("bans_and_overrides_outlive_a_restart", bans_and_overrides_outlive_a_restart),
    ("overrides_are_found_after_a_crash", overrides_are_found_after_a_crash),
    ("overrides_reach_a_standby", overrides_reach_a_standby),
    ("without_preload_overrides_and_bans_are_obeyed", without_preload),
    ("a_key_that_is_banned_is_never_evicted", a_key_that_is_banned_is_never_evicted),
    ("only_so_many_denials_in_that_time_ban", only_so_many_denials_in_that_time_ban),
    ("an_override_of_the_same_key_elsewhere_is_not_obeyed", the_same_key_elsewhere),
];

/// Why a key is refused.
fn reason(session: &mut Client, limiter: &str, key: &str) -> Result<Option<String>> {
    session.ask(&format!("SELECT reason FROM rl_peek('{limiter}', '{key}')"))
}

fn is(session: &mut Client, limiter: &str, key: &str, wanted: &str) -> Result<bool> {
    Ok(reason(session, limiter, key)?.as_deref().unwrap_or("") == wanted)
}

fn deny(session: &mut Client, key: &str) -> Result<()> {
    session.batch_execute(&format!(
        "INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', '{key}', 'deny')"
    ))?;
    Ok(())
}

fn a_ban_and_its_end(bed: &Bed) -> Result<()> {
    let database = bed.database("a_ban_and_its_end")?;
    let (mut admin, mut one, mut two) =
        (database.connect()?, database.connect()?, database.connect()?);
    admin.limiter("api", 10)?;
    two.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    ensure!(one.takes("api", "key")? && two.takes("api", "key")?);
    // In a transaction that goes on, and is rolled back.
    admin.batch_execute("BEGIN; SELECT rl_ban('api', 'key', '1 hour')")?;
    ensure!(!one.takes("api", "key")? && !two.takes("api", "key")?);
    ensure!(one.takes("api", "other")?);
    admin.batch_execute("ROLLBACK")?;
    ensure!(is(&mut one, "api", "key", "ban")? && is(&mut two, "api", "key", "ban")?);
    admin.batch_execute("BEGIN; SELECT rl_unban('api', 'key')")?;
    ensure!(one.takes("api", "key")? && two.takes("api", "key")?);
    ensure!(one.left("api", "key")? == 6, "calls while banned were counted");
    Ok(())
}

fn a_durable_ban(bed: &Bed) -> Result<()> {
    let database = bed.database("a_durable_ban")?;
    let (mut admin, mut other) = (database.connect()?, database.connect()?);
    Kind::Durable.create(&mut admin, "api", &format!("10 per {AGE}"), "token_bucket")?;
    ensure!(other.takes("api", "key")?);
    admin.batch_execute("BEGIN; SELECT rl_ban('api', 'key', NULL, 'abuse')")?;
    ensure!(is(&mut admin, "api", "key", "ban")? && is(&mut other, "api", "key", "")?);
    admin.batch_execute("COMMIT")?;
    ensure!(is(&mut other, "api", "key", "ban")?);
    admin.batch_execute("BEGIN; SELECT rl_unban('api', 'key')")?;
    ensure!(is(&mut admin, "api", "key", "")? && is(&mut other, "api", "key", "ban")?);
    admin.batch_execute("ROLLBACK")?;
    ensure!(is(&mut admin, "api", "key", "ban")? && is(&mut other, "api", "key", "ban")?);
    ensure!(admin.ask::<bool>("SELECT rl_unban('api', 'key')")?);
    ensure!(other.takes("api", "key")?);
    Ok(())
}

/// Limiters with all kinds of exceptions.
const EXCEPTIONS: &str = "
    SELECT rl_create_limiter('api', '10 per 36500 days', ban_after => 2, ban_within => '1 day', ban_for => '1 day');
    INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', 'friend', 'allow'), ('api', 'foe', 'deny');
    INSERT INTO rl_overrides (limiter, key, action, quota) VALUES ('api', 'vip', 'limit', 20);
    SELECT rl_ban('api', 'one', NULL, 'a reason that takes more than one cell of the table'), rl_ban('api', 'two', '1 hour');
    SELECT rl_take('api', 'three', 10), rl_take('api', 'four', 10);
    SELECT rl_take('api', 'three', 1), rl_take('api', 'four', 1);
    SELECT rl_take('api', 'three', 1)";

/// What they say.
const ANSWERS: &str = "
    SELECT jsonb_agg(jsonb_build_array(key, p.allowed, p.quota, p.remaining, p.reason))::text
      FROM unnest('{friend,foe,vip,one,two,three,four,five}'::text[]) AS key, LATERAL rl_peek('api', key) AS p";
const BANS: &str = "
    SELECT jsonb_agg(jsonb_build_array(limiter, key, reason, automatic,
                                       extract(epoch FROM expires_at - since)) ORDER BY key)::text FROM rl_bans";

fn bans_and_overrides_outlive_a_restart(bed: &Bed) -> Result<()> {
    let mut server = bed.private().start()?;
    let session = |server: &Server| server.connect_to("exceptions", "postgres");
    Database::new(&server, "exceptions")?.connect()?.batch_execute(EXCEPTIONS)?;
    let mut before = session(&server)?;
    let (answers, bans): (String, String) = (before.ask(ANSWERS)?, before.ask(BANS)?);
    ensure!(bans.matches("api").count() == 3, "{bans}");
    drop(before);
    server.restart(Stop::Fast)?;
    let mut after = session(&server)?;
    ensure!(after.ask::<String>(ANSWERS)? == answers);
    ensure!(after.ask::<String>(BANS)? == bans);
    // One more denial is the second.
    ensure!(after.ask::<i64>("SELECT rl_take('api', 'four', 1)")? == 0);
    ensure!(is(&mut after, "api", "four", "ban")?);
    ensure!(after.ask::<bool>("SELECT rl_unban('api', 'one')")?);
    ensure!(after.takes("api", "one")?);
    Ok(())
}

fn overrides_are_found_after_a_crash(bed: &Bed) -> Result<()> {
    let mut server = bed.private().start()?;
    let database = Database::new(&server, "found")?;
    let mut admin = database.connect()?;
    admin.limiter("api", 10)?;
    deny(&mut admin, "foe")?;
    let pid = admin.pid()?;
    server.crash(pid)?;
    let mut admin = server.connect_to("found", "postgres")?;
    let mut other = server.connect_to("found", "postgres")?;
    ensure!(other.takes("api", "key")? && !other.takes("api", "foe")?);
    deny(&mut admin, "key")?;
    ensure!(!other.takes("api", "key")?);
    Ok(())
}

fn overrides_reach_a_standby(bed: &Bed) -> Result<()> {
    let primary = bed.private().start()?;
    let mut admin = Database::new(&primary, "followed")?.connect()?;
    admin.limiter("api", 10)?;
    admin.limiter("other", 10)?;
    let standby = standby_of(bed, &primary)?;
    let mut session = standby.connect_to("followed", "postgres")?;
    ensure!(session.takes("api", "foe")?);
    // The limiter's first override, then others.
    for key in ["foe", "enemy"] {
        deny(&mut admin, key)?;
        eventually("the row arrives", || is(&mut session, "api", key, "deny_list"))?;
        ensure!(session.takes("other", key)?);
    }
    // In the middle of a transaction, too.
    let mut block = standby.connect_to("followed", "postgres")?;
    block.batch_execute("BEGIN")?;
    ensure!(is(&mut block, "api", "foe", "deny_list")?);
    admin.batch_execute("DELETE FROM rl_overrides WHERE key = 'foe'")?;
    eventually("the row goes", || is(&mut session, "api", "foe", ""))?;
    ensure!(is(&mut block, "api", "foe", "")?);
    // Bans are its own.
    session.batch_execute("SELECT rl_ban('api', 'key', NULL)")?;
    ensure!(!session.takes("api", "key")? && admin.takes("api", "key")?);
    // When it becomes a primary it obeys what it had, and what comes.
    ensure!(session.ask::<bool>("SELECT pg_promote()")?);
    let mut another = standby.connect_to("followed", "postgres")?;
    ensure!(!session.takes("api", "enemy")? && !another.takes("api", "enemy")?);
    ensure!(!session.takes("api", "key")? && session.takes("api", "foe")?);
    another.batch_execute("DELETE FROM rl_overrides")?;
    ensure!(session.takes("api", "enemy")?);
    deny(&mut session, "foe")?;
    ensure!(!another.takes("api", "foe")?);
    Ok(())
}

fn without_preload(bed: &Bed) -> Result<()> {
    let server = bed.private().preload(false).start()?;
    let database = Database::new(&server, "unloaded")?;
    let (mut admin, mut other) = (database.connect()?, database.connect()?);
    Kind::Durable.create(&mut admin, "api", &format!("10 per {AGE}"), "token_bucket")?;
    other.batch_execute("BEGIN")?;
    ensure!(other.takes("api", "foe")?);
    deny(&mut admin, "foe")?;
    ensure!(!other.takes("api", "foe")? && other.takes("api", "key")?);
    other.batch_execute("COMMIT")?;
    admin.batch_execute("SELECT rl_ban('api', 'key', '1 hour')")?;
    ensure!(is(&mut other, "api", "key", "ban")?);
    // A savepoint that is rolled back, and one that is not.
    admin.batch_execute(
        "BEGIN; SAVEPOINT s; DELETE FROM rl_overrides; SELECT rl_unban('api', 'key')",
    )?;
    ensure!(admin.takes("api", "foe")? && admin.takes("api", "key")?);
    admin.batch_execute("ROLLBACK TO s")?;
    ensure!(!admin.takes("api", "foe")? && !admin.takes("api", "key")?);
    admin.batch_execute("DELETE FROM rl_overrides; COMMIT")?;
    ensure!(other.takes("api", "foe")? && !other.takes("api", "key")?);
    ensure!(other.ask::<bool>("SELECT rl_unban('api', 'key')")?);
    ensure!(admin.takes("api", "key")?);
    Ok(())
}

fn a_key_that_is_banned_is_never_evicted(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.max_keys", "100").start()?;
    let mut session = Database::new(&server, "full")?.connect()?;
    session.limiter("api", 10)?;
    session.batch_execute(
        "SELECT rl_ban('api', 'banned ' || n, NULL) FROM generate_series(1, 10) AS n;
         SELECT count(rl_try_acquire('api', 'key ' || n)) FROM generate_series(1, 2000) AS n",
    )?;
    ensure!(session.ask::<bool>("SELECT evictions > 0 FROM rl_info()")?);
    ensure!(session.ask::<i64>("SELECT count(*) FROM rl_bans WHERE key LIKE 'banned %'")? == 10);
    let refused =
        "SELECT bool_or(rl_try_acquire('api', 'banned ' || n)) FROM generate_series(1, 10) AS n";
    ensure!(!session.ask::<bool>(refused)?);
    Ok(())
}

fn only_so_many_denials_in_that_time_ban(bed: &Bed) -> Result<()> {
    let mut session = bed.database("denials_in_time")?.connect()?;
    session.batch_execute(&format!(
        "SELECT rl_create_limiter('api', '1 per {AGE}', ban_after => 2, ban_within => '20 ms', ban_for => '20 ms')"
    ))?;
    ensure!(session.takes("api", "key")?);
    // However long a call takes, the next one is at least that long after it.
    for _ in 0..3 {
        ensure!(session.ask::<i64>("SELECT rl_take('api', 'key', 1)")? == 0);
        session.batch_execute("SELECT pg_sleep(0.021)")?;
        ensure!(is(&mut session, "api", "key", "rate")?, "banned for denials of long ago");
    }
    let twice = "SELECT (rl_check('api', 'key')).reason FROM generate_series(1, 2)";
    eventually("two denials within 20 ms", || {
        session.batch_execute(twice)?;
        is(&mut session, "api", "key", "ban")
    })?;
    eventually("the ban ends", || is(&mut session, "api", "key", "rate"))
}

fn the_same_key_elsewhere(bed: &Bed) -> Result<()> {
    let here = bed.database("listed_here")?;
    let (mut here, mut there) =
        (here.connect()?, Database::new(here.server(), "listed_there")?.connect()?);
    for session in [&mut here, &mut there] {
        session.limiter("api", 10)?;
        session.limiter("other", 10)?;
    }
    deny(&mut here, "key")?;
    here.batch_execute("SELECT rl_ban('api', 'banned', NULL)")?;
    for key in ["key", "banned"] {
        ensure!(!here.takes("api", key)? && here.takes("other", key)?);
        ensure!(there.takes("api", key)? && there.takes("other", key)?);
    }
    ensure!(there.ask::<i64>("SELECT count(*) FROM rl_bans")? == 0);
    Ok(())
}
