//! The library of today with the SQL of a release: after new packages were installed, and before ALTER EXTENSION.
//!
//! What the answers are is in the files that run with the SQL of each release, too: see `Suite::lasting`.

use anyhow::{bail, ensure, Context, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{ensure_code, eventually, Ask, AGE};
use super::durability::ledgers;
use super::kinds::Kind;
use super::worker::a_round_ends;
use super::Test;
use crate::bed::{Bed, Database};
use crate::releases;

pub const TESTS: &[Test] = &[
    ("each_function_of_each_release_can_be_called", |bed| each(bed, can_be_called)),
    ("a_release_works_before_its_update", |bed| each(bed, works_before_its_update)),
    ("a_release_works_without_preload", |bed| each(bed, works_without_preload)),
    ("a_release_has_no_bans_before_its_update", |bed| each(bed, has_no_bans)),
    ("a_table_that_is_not_of_the_extension_is_not_read", |bed| each(bed, reads_its_own_only)),
];

fn each(bed: &Bed, test: fn(&Bed, &str) -> Result<()>) -> Result<()> {
    for release in releases::all()? {
        test(bed, &release).with_context(|| format!("with the SQL of {release}"))?;
    }
    Ok(())
}

/// A call of each function that users call.
const CALLS: &[(&str, &str)] = &[
    ("rl_create_limiter", "rl_create_limiter('api', '100 per hour', max_concurrent => 9)"),
    ("rl_clone_limiter", "rl_clone_limiter('api', 'clone')"),
    ("rl_drop_limiter", "rl_drop_limiter('clone')"),
    ("rl_try_acquire", "rl_try_acquire('api', 'key')"),
    ("rl_try_acquire_many", "rl_try_acquire_many('api', '{key}')"),
    ("rl_check", "rl_check('api', 'key')"),
    ("rl_check_all", "rl_check_all('{api}', '{key}')"),
    ("rl_peek", "rl_peek('api', 'key')"),
    ("rl_enforce", "rl_enforce('api', 'key')"),
    ("rl_acquire", "rl_acquire('api', 'key')"),
    ("rl_reserve", "rl_reserve(rl_create_limiter('rates', '1 per hour'), 'key')"),
    ("rl_take", "rl_take('api', 'key', 2)"),
    ("rl_refund", "rl_refund('api', 'key')"),
    ("rl_penalize", "rl_penalize('api', 'key')"),
    ("rl_sliding_check", "rl_sliding_check('key', 1, '1 hour')"),
    ("rl_throttle", "rl_throttle('key', 1, '1 hour')"),
    ("rl_http_headers", "rl_http_headers('api', 'key')"),
    ("rl_simulate", "rl_simulate('1 per hour', ARRAY[now()])"),
    ("rl_try_slot", "rl_try_slot('api', 'key')"),
    ("rl_slot", "rl_slot('api', 'key')"),
    ("rl_try_session_slot", "rl_try_session_slot('api', 'key')"),
    ("rl_session_slot", "rl_session_slot('api', 'key')"),
    ("rl_release_session_slot", "rl_release_session_slot('api', 'key')"),
    ("rl_try_lease", "rl_try_lease('api', 'key', '1 hour')"),
    ("rl_lease", "rl_lease('api', 'key', '1 hour')"),
    ("rl_renew_lease", "rl_renew_lease(rl_try_lease('api', 'key', '1 hour'), '2 hours')"),
    ("rl_release_lease", "rl_release_lease(rl_try_lease('api', 'key', '1 hour'))"),
    ("rl_reset", "rl_reset('api', 'key')"),
    ("rl_reset_all", "rl_reset_all('api')"),
    ("rl_purge", "rl_purge()"),
    ("rl_info", "rl_info()"),
    ("rl_grant_usage", "rl_grant_usage('pg_monitor')"),
    ("rl_grant_admin", "rl_grant_admin('pg_monitor')"),
    ("rl_ban", "rl_ban('api', 'other', '1 hour')"),
    ("rl_unban", "rl_unban('api', 'other')"),
    ("rl_stat_keys", "rl_stat_keys('api')"),
    ("rl_stat_reset", "rl_stat_reset()"),
    ("rl_apply_config", "rl_apply_config('{\"limiters\": {}}')"),
    ("rl_export_config", "rl_export_config()"),
];

/// All functions of the extension.
const FUNCTIONS: &str = "
    SELECT p.proname::text, p.oid, l.lanname = 'c', left(p.proname, 1) <> '_' AND p.prorettype <> 'trigger'::regtype
      FROM pg_depend AS d JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
      JOIN pg_language AS l ON l.oid = p.prolang
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ratelimit')";

/// Those that are internal are called by the others. A symbol that is missing in the library would be an error of the call.
fn can_be_called(bed: &Bed, release: &str) -> Result<()> {
    let database = Database::of_release(bed.shared()?, &format!("calls of {release}"), release)?;
    let mut session = database.connect()?;
    let mut called = Vec::new();
    for row in session.query(FUNCTIONS, &[])? {
        let (name, oid): (String, u32) = (row.get(0), row.get(1));
        if row.get(2) {
            session
                .execute("SELECT fmgr_c_validator($1)", &[&oid])
                .with_context(|| format!("{name}: the library has to go on having it"))?;
        }
        if row.get(3) {
            called.push(name);
        }
    }
    for name in &called {
        ensure!(CALLS.iter().any(|(known, _)| known == name), "add a call of {name} to CALLS");
    }
    for (_, call) in CALLS.iter().filter(|(name, _)| called.iter().any(|known| known == name)) {
        session.batch_execute(&format!("SELECT * FROM {call}")).context(*call)?;
    }
    Ok(())
}

/// Limiters of both storages, of which each has something taken and a lease.
fn in_use(session: &mut Client) -> Result<()> {
    for (kind, name) in [(Kind::Keep, "memory"), (Kind::Durable, "durable")] {
        kind.create(session, name, &format!("10 per {AGE}"), "token_bucket")?;
        session.batch_execute(&format!(
            "UPDATE rl_limiters SET max_concurrent = 1 WHERE name = '{name}'"
        ))?;
        session.batch_execute(&format!("SELECT rl_enforce('{name}', 'key', 3)"))?;
        ensure!(session.ask::<bool>(&lease(name))?, "{name}: no lease");
    }
    Ok(())
}

fn lease(limiter: &str) -> String {
    format!("SELECT rl_try_lease('{limiter}', 'job', '1 day') IS NOT NULL")
}

/// What [`in_use`] took is taken still, and one more can be.
fn is_in_use(session: &mut Client, left: i64) -> Result<()> {
    for name in ["memory", "durable"] {
        ensure!(session.left(name, "key")? == left, "{name}: {} left", session.left(name, "key")?);
        ensure!(session.takes(name, "key")?);
        ensure!(!session.ask::<bool>(&lease(name))?, "{name}: the lease is gone");
    }
    Ok(())
}

fn works_before_its_update(bed: &Bed, release: &str) -> Result<()> {
    let mut server = bed.private().setting("ratelimit.purge_interval", "100 ms").start()?;
    let mut session = Database::of_release(&server, "old", release)?.connect()?;
    let versions =
        session.query_one("SELECT extension_version, library_version FROM rl_info()", &[])?;
    ensure!((versions.get(0), versions.get(1)) == (release, env!("CARGO_PKG_VERSION")));
    in_use(&mut session)?;

    // The worker keeps house.
    eventually("the ledgers are summed up", || Ok(ledgers(&mut session)? == (0, 0)))?;
    a_round_ends(&mut session)?;
    let error: Option<String> = session.ask("SELECT last_error FROM rl_info()")?;
    ensure!(error.is_none(), "the worker failed: {error:?}");

    is_in_use(&mut session, 7)?;
    drop(session);
    server.restart(Stop::Fast)?;
    is_in_use(&mut old(&server)?, 6)?;
    server.restart(Stop::Immediate)?;
    let mut session = old(&server)?;
    ensure!(session.left("durable", "key")? == 5);
    // Definitions can be changed.
    session.batch_execute(
        "UPDATE rl_rules SET quota = 20; UPDATE rl_limiters SET name = 'renamed' WHERE name = 'durable'",
    )?;
    ensure!(session.left("renamed", "key")? == 10);
    session.batch_execute("TRUNCATE rl_limiters CASCADE")?;
    ensure_code(&session.refused("SELECT rl_peek('renamed', 'key')")?, "42704")
}

fn old(server: &Server) -> Result<Client> {
    server.connect_to("old", "postgres")
}

fn works_without_preload(bed: &Bed, release: &str) -> Result<()> {
    let server = bed.private().preload(false).start()?;
    let mut session = Database::of_release(&server, "old", release)?.connect()?;
    Kind::Durable.create(&mut session, "api", &format!("3 per {AGE}"), "token_bucket")?;
    ensure!(session.takes("api", "key")?);
    session.ask::<i64>("SELECT rl_purge()")?;
    ensure!(session.takes("api", "key")? && old(&server)?.takes("api", "key")?);
    ensure!(!session.takes("api", "key")?);
    Ok(())
}

/// Nobody could end one.
fn has_no_bans(bed: &Bed, release: &str) -> Result<()> {
    let database = Database::of_release(bed.shared()?, &format!("bans of {release}"), release)?;
    let mut session = database.connect()?;
    if session.ask("SELECT to_regproc('rl_unban') IS NOT NULL")? {
        return Ok(());
    }
    let error = session.refused(
        "SELECT rl_create_limiter('api', '1 per hour', ban_after => 1, ban_within => '1 hour')",
    )?;
    ensure_code(&error, "0A000")?;
    ensure!(error.hint() == Some("Run ALTER EXTENSION ratelimit UPDATE."), "{:?}", error.hint());
    Ok(())
}

/// Where the extension has no such table yet, a user may.
fn reads_its_own_only(bed: &Bed, release: &str) -> Result<()> {
    let database = Database::of_release(bed.shared()?, &format!("tables of {release}"), release)?;
    let mut session = database.connect()?;
    if session.ask("SELECT to_regclass('rl_overrides') IS NOT NULL")? {
        return Ok(());
    }
    session.batch_execute(
        "CREATE TABLE rl_overrides (limiter int PRIMARY KEY); INSERT INTO rl_overrides VALUES (1)",
    )?;
    Kind::Durable.create(&mut session, "api", &format!("1 per {AGE}"), "token_bucket")?;
    ensure!(session.takes("api", "key")? && !session.takes("api", "key")?);
    session.ask::<i64>("SELECT rl_purge()")?;
    ensure_code(&session.refused("ALTER EXTENSION ratelimit UPDATE")?, "42P07")?;
    session.batch_execute("DROP TABLE rl_overrides; ALTER EXTENSION ratelimit UPDATE")?;
    if session.takes("api", "key")? {
        bail!("the update forgot what was taken");
    }
    Ok(())
}
