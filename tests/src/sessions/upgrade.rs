//! ALTER EXTENSION ratelimit UPDATE, from each release: what it makes, and what it leaves alone.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{ensure_code, run, Ask, AGE};
use super::kinds::Kind;
use super::Test;
use crate::bed::{Bed, Database};
use crate::releases;

pub const TESTS: &[Test] = &[
    ("the_scripts_of_releases_stay_as_they_were", scripts_stay_as_they_were),
    ("an_updated_extension_is_like_a_new_one", |bed| each(bed, is_like_a_new_one)),
    ("an_update_keeps_what_there_is", |bed| each(bed, keeps_what_there_is)),
    ("an_updated_database_can_be_dumped", |bed| each(bed, can_be_dumped)),
    ("sessions_go_on_during_an_update", |bed| each(bed, sessions_go_on)),
    ("an_update_needs_the_new_library", |bed| each(bed, needs_the_new_library)),
    ("an_update_can_be_rolled_back", |bed| each(bed, can_be_rolled_back)),
];

fn each(bed: &Bed, test: fn(&Bed, &str) -> Result<()>) -> Result<()> {
    for release in releases::all()? {
        test(bed, &release).with_context(|| format!("from {release}"))?;
    }
    Ok(())
}

const UPDATE: &str = "ALTER EXTENSION ratelimit UPDATE";

/// Databases have them: nobody could say any more what an update begins with.
fn scripts_stay_as_they_were(_: &Bed) -> Result<()> {
    let mut check = Command::new("sha256sum");
    run(check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(releases::folder()), b"")
        .context("a script of a release was changed: put it back, and write what is to change into sql/upgrade.sql")?;
    let sums = std::fs::read_to_string(releases::folder().join("SHA256SUMS"))?;
    for script in releases::scripts()? {
        ensure!(sums.contains(&script), "{script} is not in SHA256SUMS: see dev/release");
    }
    Ok(())
}

/// All that the catalogs say of the extension's objects, one fact in a row, without oids.
const FACTS: &str = "
    WITH ours AS (
        SELECT classid, objid FROM pg_depend
         WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ratelimit')
    ), relations AS (
        SELECT c.*, c.oid::regclass AS name FROM pg_class AS c JOIN ours ON classid = 'pg_class'::regclass AND objid = c.oid
    )
    SELECT concat_ws(' ', 'extension', extversion, extrelocatable, extnamespace::regnamespace, extconfig::regclass[], extcondition)
      FROM pg_extension WHERE extname = 'ratelimit'
    UNION ALL
    SELECT concat_ws(' ', pg_describe_object(classid, objid, 0), 'comment:', c.description) FROM ours
      LEFT JOIN pg_description AS c ON c.classoid = classid AND c.objoid = objid AND c.objsubid = 0
    UNION ALL
    SELECT concat_ws(' ', pg_describe_object(classid, objid, i.objsubid), 'initial privileges:', i.initprivs) FROM ours
      JOIN pg_init_privs AS i ON i.classoid = classid AND i.objoid = objid
    UNION ALL
    SELECT concat_ws(' ', pg_get_functiondef(p.oid), 'owner:', p.proowner::regrole, 'privileges:', p.proacl)
      FROM pg_proc AS p JOIN ours ON classid = 'pg_proc'::regclass AND objid = p.oid
    UNION ALL
    SELECT concat_ws(' ', 'type', t.oid::regtype, 'privileges:', t.typacl, 'labels:',
                     (SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
      FROM pg_type AS t JOIN ours ON classid = 'pg_type'::regclass AND objid = t.oid
    UNION ALL
    SELECT concat_ws(' ', name, relkind, relpersistence, relreplident, relrowsecurity, relowner::regrole, 'options:', reloptions,
                     'privileges:', relacl)
      FROM relations
    UNION ALL
    SELECT concat_ws(' ', name, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attisdropped,
                     a.attstorage, a.attcollation::regcollation, 'privileges:', a.attacl,
                     'default:', pg_get_expr(d.adbin, d.adrelid), 'comment:', col_description(r.oid, a.attnum))
      FROM relations AS r JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0
      LEFT JOIN pg_attrdef AS d ON d.adrelid = r.oid AND d.adnum = a.attnum
    UNION ALL
    SELECT concat_ws(' ', name, 'constraint', c.conname, c.convalidated, pg_get_constraintdef(c.oid, true))
      FROM relations AS r JOIN pg_constraint AS c ON c.conrelid = r.oid
    UNION ALL
    SELECT concat_ws(' ', pg_get_indexdef(i.indexrelid), i.indisvalid, c.reloptions)
      FROM relations AS r JOIN pg_index AS i ON i.indrelid = r.oid JOIN pg_class AS c ON c.oid = i.indexrelid
    UNION ALL
    SELECT concat_ws(' ', pg_get_triggerdef(t.oid), 'enabled:', t.tgenabled)
      FROM relations AS r JOIN pg_trigger AS t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT concat_ws(' ', name, 'is', pg_get_viewdef(oid)) FROM relations WHERE relkind = 'v'";

fn facts(session: &mut Client) -> Result<BTreeSet<String>> {
    Ok(session.query(FACTS, &[])?.iter().map(|row| row.get(0)).collect())
}

fn is_like_a_new_one(bed: &Bed, release: &str) -> Result<()> {
    let new = facts(&mut bed.database(&format!("new beside {release}"))?.connect()?)?;
    ensure!(new.len() > 300, "only {} facts", new.len());
    let database = Database::of_release(bed.shared()?, &format!("facts of {release}"), release)?;
    let mut session = database.connect()?;
    session.batch_execute(UPDATE)?;
    let updated = facts(&mut session)?;
    let lines = |sign: &str, facts: Vec<&String>| -> String {
        facts.iter().map(|fact| format!("\n{sign} {fact}")).collect()
    };
    ensure!(
        new == updated,
        "complete sql/upgrade.sql: an update does not make what CREATE EXTENSION makes.{}{}",
        lines("missing:", new.difference(&updated).collect()),
        lines("too much:", updated.difference(&new).collect())
    );
    Ok(())
}

/// A server with a database `old` in which a release is in use: limiters of both storages with something taken, in a ledger and summed
/// up; leases; roles with grants; and objects of users that depend on the extension.
fn in_use(bed: &Bed, release: &str) -> Result<(Server, Client)> {
    // House is kept by the tests.
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let mut session = Database::of_release(&server, "old", release)?.connect()?;
    for (kind, name) in [(Kind::Keep, "memory"), (Kind::Durable, "durable")] {
        kind.create(&mut session, name, &format!("10 per {AGE}"), "token_bucket")?;
        session.batch_execute(&format!(
            "UPDATE rl_limiters SET max_concurrent = 9, description = 'of {release}' WHERE name = '{name}';
             SELECT rl_enforce('{name}', 'key', 2), rl_try_lease('{name}', 'job', '1 day')"
        ))?;
        session.ask::<i64>("SELECT rl_purge()")?;
        ensure!(session.takes(name, "key")?);
    }
    session.batch_execute(
        "CREATE ROLE app; CREATE ROLE boss; CREATE ROLE sampler;
         SELECT rl_grant_usage('app'); SELECT rl_grant_admin('boss');
         GRANT EXECUTE ON FUNCTION rl_info(), rl_peek TO sampler; GRANT EXECUTE ON FUNCTION rl_simulate TO PUBLIC;
         REVOKE EXECUTE ON FUNCTION rl_reset FROM boss;
         CREATE FUNCTION passes(key text) RETURNS boolean BEGIN ATOMIC SELECT rl_try_acquire('memory', key); END;
         CREATE VIEW what_is_left AS SELECT name, remaining FROM rl_limiters, rl_peek(name, 'key', 0);
         CREATE TABLE calls (key text);
         ALTER TABLE calls ENABLE ROW LEVEL SECURITY;
         CREATE POLICY few ON calls USING (rl_try_acquire('memory', key));
         CREATE TRIGGER quota BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION rl_limit_row('durable', '{key}', 'skip')",
    )?;
    Ok((server, session))
}

/// What users have made of the extension.
const GRANTS: &str = "
    SELECT string_agg(concat_ws(' ', p.oid::regprocedure, a.grantee, a.privilege_type), E'\\n' ORDER BY p.proname, a.grantee::regrole::text)
      FROM pg_proc AS p, aclexplode(p.proacl) AS a
     WHERE p.proname LIKE 'rl\\_%' AND (a.grantee = 0 OR a.grantee::regrole::text IN ('app', 'boss', 'sampler'))";
const DEFINITIONS: &str = "
    SELECT jsonb_build_object('limiters', (SELECT jsonb_agg(l ORDER BY l.name) FROM rl_limiters AS l),
                              'rules', (SELECT jsonb_agg(r ORDER BY r.limiter, r.position) FROM rl_rules AS r))::text";
const TAKEN: &str = "
    SELECT jsonb_build_object('left', (SELECT jsonb_agg(l ORDER BY l.name) FROM what_is_left AS l),
                              'leases', (SELECT jsonb_agg(s ORDER BY s.limiter) FROM rl_slots AS s))::text";

/// What users made with the extension does what it did: it takes one from each limiter.
fn users_objects_work(session: &mut Client, left: i64) -> Result<()> {
    let lefts = "SELECT array_agg(remaining ORDER BY name) FROM what_is_left";
    ensure!(session.ask::<Vec<i64>>(lefts)? == [left, left]);
    ensure!(session.ask::<bool>("SELECT passes('key')")?);
    session.batch_execute("INSERT INTO calls VALUES ('key')")?;
    ensure!(session.ask::<Vec<i64>>(lefts)? == [left - 1, left - 1]);
    let policy = "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polname = 'few'";
    ensure!(session.ask::<String>(policy)? == "rl_try_acquire('memory'::text, key)");
    Ok(())
}

fn keeps_what_there_is(bed: &Bed, release: &str) -> Result<()> {
    let (mut server, mut session) = in_use(bed, release)?;
    let mut before = Vec::new();
    for query in [GRANTS, DEFINITIONS, TAKEN] {
        before.push((query, session.ask::<String>(query)?));
    }
    session.batch_execute(UPDATE)?;
    for (query, before) in &before {
        let after: String = session.ask(query)?;
        ensure!(after == *before, "before: {before}\nafter: {after}");
    }
    users_objects_work(&mut session, 7)?;
    drop(session);
    server.restart(Stop::Fast)?;
    let mut session = old(&server)?;
    users_objects_work(&mut session, 6)?;
    // Counts that were taken by either version are summed up together.
    session.ask::<i64>("SELECT rl_purge()")?;
    users_objects_work(&mut session, 5)?;
    let versions = "SELECT extension_version = library_version FROM rl_info()";
    ensure!(session.ask::<bool>(versions)?);
    Ok(())
}

fn old(server: &Server) -> Result<Client> {
    server.connect_to("old", "postgres")
}

/// What the extension's scripts grant is not dumped, and what users grant is.
fn can_be_dumped(bed: &Bed, release: &str) -> Result<()> {
    let (server, mut session) = in_use(bed, release)?;
    session.batch_execute(UPDATE)?;
    session.batch_execute(
        "INSERT INTO rl_overrides (limiter, key, action) VALUES ('memory', 'foe', 'deny')",
    )?;
    let dump = run(server.command("pg_dump").arg("old"), b"")?;
    server.connect()?.batch_execute("CREATE DATABASE restored")?;
    run(
        server.command("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "restored"]),
        &dump,
    )?;
    let mut restored = server.connect_to("restored", "postgres")?;
    for query in [GRANTS, DEFINITIONS] {
        let (before, after): (String, String) = (session.ask(query)?, restored.ask(query)?);
        ensure!(after == before, "dumped: {before}\nrestored: {after}");
    }
    ensure!(!restored.takes("memory", "foe")?, "the override was not dumped");
    users_objects_work(&mut restored, 10)
}

fn sessions_go_on(bed: &Bed, release: &str) -> Result<()> {
    let (server, mut admin) = in_use(bed, release)?;
    let (mut one, mut other) = (old(&server)?, old(&server)?);
    for session in [&mut one, &mut other] {
        session.batch_execute("SET lock_timeout = '10 s'")?;
        ensure!(session.takes("memory", "key")? && session.takes("durable", "key")?);
    }
    other.batch_execute("BEGIN")?;
    admin.batch_execute(&format!("BEGIN; {UPDATE}"))?;
    // Nobody waits for it.
    for session in [&mut one, &mut other] {
        ensure!(session.takes("memory", "key")? && session.takes("durable", "key")?);
    }
    admin.batch_execute("COMMIT")?;
    // What is new is obeyed from now on, by what sessions knew before, too.
    admin.batch_execute(
        "INSERT INTO rl_overrides (limiter, key, action) VALUES ('memory', 'foe', 'deny'), ('durable', 'foe', 'deny')",
    )?;
    admin.batch_execute("SELECT rl_ban(name, 'bot', '1 hour') FROM rl_limiters")?;
    for (who, session) in [("a session", &mut one), ("a transaction", &mut other)] {
        for limiter in ["memory", "durable"] {
            for key in ["foe", "bot"] {
                ensure!(!session.takes(limiter, key)?, "{limiter}: {key} passes in {who}");
            }
            ensure!(session.takes(limiter, "key")?);
        }
    }
    other.batch_execute("COMMIT")?;
    ensure!(one.left("durable", "key")? == 1);
    Ok(())
}

/// A server that was not restarted has the library that it began with.
fn needs_the_new_library(bed: &Bed, release: &str) -> Result<()> {
    if release == env!("CARGO_PKG_VERSION") {
        return Ok(());
    }
    let database = Database::of_release(bed.shared()?, &format!("library of {release}"), release)?;
    let mut session = database.connect()?;
    // The answer of the old one.
    session.batch_execute(&format!(
        "ALTER FUNCTION _rl_info RENAME TO info_of_today;
         CREATE FUNCTION _rl_info(OUT library_version text) LANGUAGE sql AS $$ SELECT '{release}' $$"
    ))?;
    let error = session.refused(UPDATE)?;
    ensure_code(&error, "55000")?;
    ensure!(error.message().contains(release), "{error}");
    Ok(())
}

fn can_be_rolled_back(bed: &Bed, release: &str) -> Result<()> {
    let (server, mut session) = in_use(bed, release)?;
    let mut other = old(&server)?;
    let before = facts(&mut session)?;
    session.batch_execute(&format!(
        "BEGIN; {UPDATE}; INSERT INTO rl_overrides (limiter, key, action) VALUES ('memory', 'key', 'deny')"
    ))?;
    ensure!(!session.takes("memory", "key")? && other.takes("memory", "key")?);
    session.batch_execute("ROLLBACK")?;
    ensure!(facts(&mut session)? == before, "something is left of the update");
    for session in [&mut session, &mut other] {
        ensure!(session.takes("memory", "key")? && session.takes("durable", "key")?);
    }
    session.ask::<i64>("SELECT rl_purge()")?;
    Ok(session.batch_execute(UPDATE)?)
}
