//! What a role may do: section 1.9 of the contract, asked of every object that belongs to the extension.

use std::collections::BTreeSet;

use anyhow::{ensure, Context, Result};
use postgres::Client;

use super::ask::{ensure_code, Ask};
use super::every_call::{answer, calls, ensure_every_function, members, set_up};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_role_without_a_grant_may_do_nothing", without_a_grant),
    ("a_role_with_usage_decides_and_looks_and_nothing_else", usage),
    ("a_role_with_usage_may_use_the_schema", a_schema_of_its_own),
    ("a_role_with_admin_may_call_all_and_use_no_table", admin),
    ("a_role_that_reads_statistics_sees_them_and_nothing_else", statistics),
    ("a_role_with_usage_is_told_nothing_of_others", nothing_tells_of_others),
    ("a_role_with_usage_cannot_go_around_the_grants", no_way_around),
    ("a_role_needs_a_grant_to_create_a_trigger_and_none_to_fire_it", triggers),
];

/// What `rl_grant_usage` grants.
const USAGE: &[&str] = &[
    "rl_acquire",
    "rl_check",
    "rl_check_all",
    "rl_enforce",
    "rl_http_headers",
    "rl_lease",
    "rl_limit_row",
    "rl_limit_statement",
    "rl_peek",
    "rl_penalize",
    "rl_refund",
    "rl_release_lease",
    "rl_release_session_slot",
    "rl_renew_lease",
    "rl_reserve",
    "rl_session_slot",
    "rl_simulate",
    "rl_sliding_check",
    "rl_slot",
    "rl_take",
    "rl_throttle",
    "rl_try_acquire",
    "rl_try_acquire_many",
    "rl_try_lease",
    "rl_try_session_slot",
    "rl_try_slot",
];

/// What `pg_read_all_stats` may call and read.
const STATISTICS: &[&str] =
    &["_rl_bans", "_rl_slots", "_rl_stat_limiter", "rl_info", "rl_stat_keys"];
const VIEWS: &[&str] = &["rl_bans", "rl_slots", "rl_stat_limiters"];

type Names = BTreeSet<String>;

fn names(list: &[&str]) -> Names {
    list.iter().map(|&name| name.to_owned()).collect()
}

/// A database, its superuser, and a session of a new role that may create objects of its own.
fn database<'a>(bed: &'a Bed, name: &str) -> Result<(Database<'a>, Client, Client)> {
    let database = bed.database(name)?;
    let mut admin = database.connect()?;
    admin.batch_execute(&format!(
        "CREATE ROLE {name} LOGIN; GRANT CREATE ON SCHEMA public TO {name}"
    ))?;
    set_up(&mut admin, "public")?;
    let session = database.connect_as(name)?;
    Ok((database, admin, session))
}

/// Which functions the session may call: with nulls of the right types any other error can come of it.
fn callable(admin: &mut Client, session: &mut Client) -> Result<Names> {
    let calls: Vec<String> = admin.ask(&format!(
        "SELECT array_agg(format('%s %s(%s)', proname, oid::regproc, (SELECT string_agg('NULL::' || t::regtype, ', ') FROM unnest(proargtypes) AS t))
                          ORDER BY proname)
           FROM pg_proc WHERE oid IN (SELECT d.objid FROM {})",
        members("pg_proc")
    ))?;
    ensure!(calls.len() > 50, "only {} functions", calls.len());
    let mut callable = Names::new();
    for call in calls {
        let (name, call) = call.split_once(' ').context("no call")?;
        if !is_refused(session, &format!("SELECT {call}"))? {
            callable.insert(name.to_owned());
        }
    }
    Ok(callable)
}

/// Which tables and views the session may do anything with.
fn usable(admin: &mut Client, session: &mut Client) -> Result<Names> {
    let relations: Vec<String> = admin.ask(&format!(
        "SELECT array_agg(format('%s %s', relkind, oid::regclass)) FROM pg_class WHERE oid IN (SELECT d.objid FROM {})",
        members("pg_class")
    ))?;
    let mut usable = Names::new();
    for relation in relations {
        let (kind, name) = relation.split_once(' ').context("no name")?;
        let column: String = admin.ask(&format!(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum = 1"
        ))?;
        let read = format!(
            "SELECT FROM {name}; SELECT {column} FROM {name}; SELECT count(*) FROM {name}; CREATE TEMP TABLE t AS TABLE {name};
             EXPLAIN SELECT * FROM {name}; LOCK TABLE {name} IN ACCESS SHARE MODE"
        );
        let write = format!(
            "INSERT INTO {name} DEFAULT VALUES; UPDATE {name} SET {column} = DEFAULT; DELETE FROM {name}; TRUNCATE {name};
             SELECT FROM {name} FOR UPDATE; MERGE INTO {name} USING (SELECT) AS s ON true WHEN MATCHED THEN DELETE;
             CREATE TRIGGER t BEFORE INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
             ALTER TABLE {name} DISABLE TRIGGER ALL; CREATE INDEX ON {name} ({column});
             CREATE TABLE c () INHERITS ({name}); CREATE TABLE l (LIKE {name})"
        );
        let statements = match kind {
            "r" => read + ";" + &write,
            "v" => read,
            // An index is used with its table, and nothing else belongs to the extension.
            "i" => continue,
            _ => anyhow::bail!("{name} is of the kind {kind}, which this test does not know"),
        };
        for statement in statements.split(';') {
            if !is_refused(session, statement)? {
                usable.insert(name.to_owned());
            }
        }
    }
    Ok(usable)
}

fn is_refused(session: &mut Client, statement: &str) -> Result<bool> {
    session.batch_execute("BEGIN")?;
    let result = session.batch_execute(statement);
    session.settle();
    session.batch_execute("ROLLBACK")?;
    Ok(result.is_err_and(|error| error.code().is_some_and(|code| code.code() == "42501")))
}

fn ensure_same(what: &str, found: &Names, expected: &Names) -> Result<()> {
    let more: Vec<_> = found.difference(expected).collect();
    let less: Vec<_> = expected.difference(found).collect();
    ensure!(more.is_empty() && less.is_empty(), "{what}: too much {more:?}, not {less:?}");
    Ok(())
}

fn without_a_grant(bed: &Bed) -> Result<()> {
    let (_database, mut admin, mut session) = database(bed, "role_without")?;
    ensure_same("functions", &callable(&mut admin, &mut session)?, &Names::new())?;
    ensure_same("relations", &usable(&mut admin, &mut session)?, &Names::new())?;
    // What else there is would need a test of its own.
    let other: i64 = admin.ask(
        "SELECT count(*) FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
          WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
            AND d.classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass)",
    )?;
    ensure!(other == 0, "{other} members are neither functions nor relations nor types");
    Ok(())
}

fn usage(bed: &Bed) -> Result<()> {
    let (_database, mut admin, mut session) = database(bed, "role_usage")?;
    let granted: i64 = admin.ask("SELECT count(*) FROM rl_grant_usage('role_usage')")?;
    ensure!(granted == 1 + i64::try_from(USAGE.len())?, "{granted} grants");
    ensure_same("functions", &callable(&mut admin, &mut session)?, &names(USAGE))?;
    ensure_same("relations", &usable(&mut admin, &mut session)?, &Names::new())?;
    ensure_every_function(&mut admin)?;
    for call in calls("public", |name| USAGE.contains(&name)) {
        session.batch_execute(&call).context(call)?;
    }
    // It cannot be passed on.
    session.batch_execute("GRANT EXECUTE ON FUNCTION rl_try_acquire TO PUBLIC")?;
    ensure!(!admin.ask::<bool>("SELECT has_function_privilege('pg_monitor', 'rl_try_acquire(text, text, bigint)', 'EXECUTE')")?);
    Ok(())
}

fn a_schema_of_its_own(bed: &Bed) -> Result<()> {
    let (_database, mut admin, mut session) = database(bed, "role_schema")?;
    admin.batch_execute(
        "DROP EXTENSION ratelimit; CREATE SCHEMA \"Its own\"; CREATE EXTENSION ratelimit SCHEMA \"Its own\";
         SELECT \"Its own\".rl_create_limiter('api', '1 per day')",
    )?;
    let call = "SELECT \"Its own\".rl_enforce('api', 'k')";
    ensure_code(&session.refused(call)?, "42501")?;
    admin.batch_execute("SELECT \"Its own\".rl_grant_usage('role_schema')")?;
    session.batch_execute(call)?;
    ensure_code(&session.refused(call)?, "PT429")
}

fn admin(bed: &Bed) -> Result<()> {
    let (database, mut admin, mut session) = database(bed, "role_admin")?;
    admin.batch_execute("CREATE ROLE role_second LOGIN; SELECT rl_grant_admin('role_admin')")?;
    let functions: Vec<String> = admin.ask(&format!(
        "SELECT array_agg(proname::text) FROM pg_proc
          WHERE oid IN (SELECT d.objid FROM {}) AND left(proname, 1) <> '_' AND proname <> 'rl_stat_keys'",
        members("pg_proc")
    ))?;
    let functions = functions.into_iter().collect();
    ensure_same("functions", &callable(&mut admin, &mut session)?, &functions)?;
    ensure_same("relations", &usable(&mut admin, &mut session)?, &Names::new())?;
    // An administrator passes on what he has, by these two functions only.
    session.batch_execute("SELECT rl_grant_usage('role_second')")?;
    let mut second = database.connect_as("role_second")?;
    ensure_same("passed on", &callable(&mut admin, &mut second)?, &names(USAGE))?;
    session.batch_execute("SELECT rl_grant_admin('role_second')")?;
    ensure_same("passed on", &callable(&mut admin, &mut second)?, &functions)?;
    for call in calls("public", |name| name != "rl_stat_keys") {
        session.batch_execute(&call).context(call)?;
    }
    Ok(())
}

fn statistics(bed: &Bed) -> Result<()> {
    let (_database, mut admin, mut session) = database(bed, "role_reader")?;
    for role in ["pg_read_all_stats", "pg_monitor"] {
        admin.batch_execute(&format!("GRANT {role} TO role_reader"))?;
        ensure_same(role, &callable(&mut admin, &mut session)?, &names(STATISTICS))?;
        let (mut read, mut written) = (Names::new(), Names::new());
        for name in usable(&mut admin, &mut session)? {
            if is_refused(&mut session, &format!("TABLE {name}"))? {
                written.insert(name);
            } else {
                read.insert(name);
            }
        }
        ensure_same(role, &read, &names(VIEWS))?;
        ensure_same(role, &written, &Names::new())?;
        admin.batch_execute(&format!("REVOKE {role} FROM role_reader"))?;
    }
    ensure_same("after REVOKE", &callable(&mut admin, &mut session)?, &Names::new())
}

fn nothing_tells_of_others(bed: &Bed) -> Result<()> {
    let (database, mut admin, mut session) = database(bed, "role_curious")?;
    // What must not be told has a name that can be found.
    admin.batch_execute(
        "SELECT rl_grant_usage('role_curious');
         SELECT rl_create_limiter('secret limiter', '10 per day', description => 'secret', max_concurrent => 5);
         UPDATE rl_limiters SET description = 'secret';
         INSERT INTO rl_overrides (limiter, key, action, reason)
         SELECT l, 'secret ' || a, a, 'secret' FROM (VALUES ('api'), ('paid')) AS l (l), (VALUES ('allow'), ('deny')) AS a (a);
         SELECT rl_check(l, 'secret key'), rl_ban(l, 'secret foe', NULL, 'secret reason') FROM (VALUES ('api'), ('paid')) AS l (l);
         SELECT rl_ban(l, 'k', '1 day', 'secret reason') FROM (VALUES ('api'), ('paid')) AS l (l);
         SELECT rl_try_lease(l, 'secret holder', '1 day') FROM (VALUES ('jobs'), ('seats')) AS l (l);
         SELECT rl_try_session_slot('jobs', 'secret holder');
         ANALYZE",
    )?;
    let mut asked = calls("public", |name| USAGE.contains(&name));
    for name in USAGE {
        // Too few, too many, and wrong arguments.
        for arguments in [
            "'nope', 'k'",
            "'', ''",
            "'api', NULL",
            "'api', 'k', -1",
            "'jobs', 'k', '-1 s'",
            "'{api}', '{}'",
            "'{api,nope}', '{k,k}'",
        ] {
            asked.push(format!("SELECT {name}({arguments})"));
        }
    }
    for more in [
        "TABLE rl_slots",
        "TABLE rl_bans",
        "TABLE rl_overrides",
        "EXPLAIN (VERBOSE) SELECT * FROM rl_bans",
        "EXPLAIN (ANALYZE, VERBOSE) SELECT rl_check('api', 'k')",
        "TABLE pg_stats",
        "TABLE pg_statistic_ext_data",
        "TABLE pg_locks",
        "SELECT query FROM pg_stat_activity WHERE usename <> current_user",
        "TABLE pg_prepared_statements",
        "TABLE pg_cursors",
        "SELECT most_common_vals FROM pg_stats",
        "INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', 'secret deny', 'deny')",
    ] {
        asked.push(more.to_owned());
    }
    for statement in asked {
        let answer = answer(&mut session, &statement);
        ensure!(!answer.contains("secret"), "{statement}: {answer}");
    }
    // The superuser does find it.
    ensure!(answer(&mut database.connect()?, "TABLE rl_slots").contains("secret"));
    Ok(())
}

fn no_way_around(bed: &Bed) -> Result<()> {
    let (_database, mut admin, mut session) = database(bed, "role_clever")?;
    admin.batch_execute("SELECT rl_grant_usage('role_clever')")?;
    session.batch_execute("CREATE VIEW mine AS TABLE rl_overrides")?;
    for statement in [
        "TABLE mine",
        "LOAD 'ratelimit'",
        "CREATE FUNCTION mine(text, text) RETURNS boolean LANGUAGE c AS '$libdir/ratelimit', 'rl_reset'",
        "CREATE OR REPLACE FUNCTION rl_try_acquire(limiter text, key text, cost bigint DEFAULT 1) RETURNS boolean RETURN true",
        "ALTER FUNCTION rl_reset SECURITY DEFINER",
        "DROP FUNCTION rl_reset(text, text)",
        "ALTER VIEW rl_slots OWNER TO role_clever",
        "CREATE OR REPLACE VIEW rl_slots AS SELECT",
        "CREATE TABLE other (name text REFERENCES rl_limiters)",
        "CREATE POLICY mine ON rl_overrides USING (false)",
        "CREATE RULE mine AS ON INSERT TO rl_overrides DO INSTEAD NOTHING",
        "CREATE STATISTICS mine ON limiter, key FROM rl_overrides",
        "ALTER TYPE rl_mode ADD VALUE 'mine'",
        "CREATE CAST (rl_mode AS boolean) WITH INOUT AS IMPLICIT",
        "COMMENT ON FUNCTION rl_reset IS 'mine'",
        "GRANT SELECT ON rl_overrides TO role_clever",
        "GRANT EXECUTE ON FUNCTION rl_reset TO role_clever",
        "ALTER EXTENSION ratelimit UPDATE",
        "ALTER EXTENSION ratelimit DROP FUNCTION rl_reset(text, text)",
        "DROP EXTENSION ratelimit",
        "DO 'BEGIN PERFORM rl_reset(''api'', ''k''); END'",
        "SELECT max(rl_reset('api', 'k')::int) OVER () FROM rl_check('api', 'k')",
        "SET ROLE postgres",
    ] {
        ensure_code(&session.refused(statement)?, "42501").context(statement)?;
    }
    Ok(())
}

fn triggers(bed: &Bed) -> Result<()> {
    let (database, mut admin, mut session) = database(bed, "role_writer")?;
    session.batch_execute("CREATE TABLE own (k text)")?;
    let create = [
        "CREATE TRIGGER a BEFORE INSERT ON own FOR EACH ROW EXECUTE FUNCTION rl_limit_row('once', '{k}')",
        "CREATE TRIGGER b AFTER INSERT ON own REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION rl_limit_statement('once', '{k}')",
    ];
    for statement in create {
        ensure_code(&session.refused(statement)?, "42501")?;
    }
    // Who has the right makes it; then it is for all who write.
    admin.batch_execute("CREATE ROLE role_maker LOGIN; SELECT rl_grant_usage('role_maker'); GRANT TRIGGER ON own TO role_maker")?;
    let mut maker = database.connect_as("role_maker")?;
    for (statement, quota) in create.into_iter().zip([1, 2]) {
        maker.batch_execute(statement)?;
        if quota == 1 {
            admin.limiter("once", 1)?;
        } else {
            session.batch_execute("DROP TRIGGER a ON own")?;
        }
        let insert = format!("INSERT INTO own VALUES ('{quota}')");
        session.batch_execute(&insert)?;
        ensure_code(&session.refused(&insert)?, "PT429")?;
    }
    ensure_code(&session.refused("SELECT rl_try_acquire('once', 'k')")?, "42501")
}
