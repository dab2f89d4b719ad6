//! Objects that somebody planted in a schema of the search path are never used: neither by calls, nor by triggers, house-keeping or dumps, nor
//! when the extension is created or updated.

use anyhow::{ensure, Context, Result};
use postgres::Client;

use super::ask::{ensure_code, eventually, run, Ask};
use super::every_call::{calls, ensure_every_function, set_up};
use super::postgrest;
use super::worker::a_round_ends;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("no_call_uses_what_was_planted", no_call),
    ("no_change_of_a_definition_uses_what_was_planted", no_change),
    ("no_view_or_trigger_uses_what_was_planted", no_view_or_trigger),
    ("to_create_and_update_uses_nothing_that_was_planted", to_create_and_update),
    ("neither_workers_nor_dumps_use_what_was_planted", workers_and_dumps),
    ("recipes_use_nothing_that_was_planted", recipes),
];

/// The search paths of somebody who planted.
const PATHS: &[&str] = &["planted, pg_catalog, public", "pg_temp, planted, pg_catalog, public"];

/// Plants in a database with the extension.
fn plant(admin: &mut Client) -> Result<()> {
    admin.batch_execute(include_str!("planted.sql"))?;
    admin.batch_execute(
        "CALL planted.on_types();
         CALL planted.relations('planted', '%');
         CALL planted.types('planted', '%')",
    )?;
    Ok(())
}

/// Puts what was planted first, in a session that names its own objects in full from then on.
fn set_path(session: &mut Client, path: &str) -> Result<()> {
    if path.starts_with("pg_temp") {
        session.batch_execute(
            "CALL planted.relations('pg_temp', '%'); CALL planted.types('pg_temp', '%')",
        )?;
    }
    session.batch_execute(&format!("SET search_path = {path}"))?;
    // It would work.
    for trapped in [
        "SELECT 1 = 1",
        "SELECT 'a' || 'b'::pg_catalog.text",
        "SELECT pg_catalog.now() > pg_catalog.now()",
        "SELECT 'a' IN ('b'::pg_catalog.text)",
        "SELECT now()",
        "SELECT count(*)",
        "SELECT format('%s', 1)",
        "SELECT 'a'::text",
        "TABLE pg_class",
        "TABLE rl_limiters",
        "SELECT 'memory'::public.rl_storage = 'memory'::public.rl_storage",
    ] {
        session.refused(trapped)?;
    }
    Ok(())
}

fn database<'a>(bed: &'a Bed, name: &str) -> Result<(Database<'a>, Client)> {
    let database = bed.database(name)?;
    let mut admin = database.connect()?;
    set_up(&mut admin, "public")?;
    plant(&mut admin)?;
    Ok((database, admin))
}

fn no_call(bed: &Bed) -> Result<()> {
    let (database, mut admin) = database(bed, "planted_calls")?;
    ensure_every_function(&mut admin)?;
    admin.batch_execute(
        "CREATE ROLE planter LOGIN; SELECT rl_grant_admin('planter');
         GRANT pg_read_all_stats TO planter; GRANT TEMPORARY ON DATABASE planted_calls TO planter",
    )?;
    for user in ["planter", "postgres"] {
        for path in PATHS {
            let mut session = database.connect_as(user)?;
            set_path(&mut session, path)?;
            for call in calls("public", |_| true) {
                session.batch_execute(&call).with_context(|| format!("{path}: {call}"))?;
            }
            for (wrong, code) in [
                ("rl_create_limiter('api', '5/s')", "42710"),
                ("rl_create_limiter('new', '5/s', max_concurrent => -1)", "22023"),
                ("rl_create_limiter('new', '5/s', anchor => 'x')", "22023"),
                ("rl_clone_limiter('nope', 'new')", "42704"),
                ("rl_clone_limiter('api', 'paid')", "42710"),
                ("rl_apply_config('{\"limiters\": {\"api\": {\"rates\": \"x\"}}}')", "22023"),
                ("rl_grant_usage('4000000000'::pg_catalog.regrole)", "42704"),
                ("rl_enforce('api', 'k', 1000)", "PT429"),
            ] {
                let error = session.refused(&format!("SELECT public.{wrong}"))?;
                ensure_code(&error, code).with_context(|| format!("{path}: {wrong}"))?;
            }
        }
    }
    Ok(())
}

fn no_change(bed: &Bed) -> Result<()> {
    let (database, _admin) = database(bed, "planted_changes")?;
    for path in PATHS {
        let mut session = database.connect()?;
        set_path(&mut session, path)?;
        session.batch_execute(
            "INSERT INTO public.rl_limiters (name, storage, ban_after, ban_within) VALUES ('row', 'durable', 5, '1 s');
             INSERT INTO public.rl_rules (limiter, quota, period) VALUES ('row', 5, '1 s');
             INSERT INTO public.rl_overrides (limiter, key, action, quota) VALUES ('row', 'k', 'limit', 3);
             SELECT public.rl_ban('row', 'foe', NULL);
             UPDATE public.rl_limiters SET name = 'renamed', max_concurrent = 3 WHERE name OPERATOR(pg_catalog.=) 'row';
             UPDATE public.rl_rules SET period = '1 h';
             UPDATE public.rl_overrides SET quota = 4;
             DELETE FROM public.rl_overrides;
             DELETE FROM public.rl_limiters WHERE name OPERATOR(pg_catalog.=) 'renamed'",
        )?;
    }
    Ok(())
}

fn no_view_or_trigger(bed: &Bed) -> Result<()> {
    let (database, mut admin) = database(bed, "planted_views")?;
    admin.batch_execute(
        "CREATE TABLE log (k text, n bigint);
         CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON log FOR EACH ROW EXECUTE FUNCTION rl_limit_row('api', '{k}:{n}', 'skip', 'n');
         CREATE TRIGGER b AFTER INSERT ON log REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION rl_limit_statement('paid', '{k}');
         SELECT rl_ban('api', 'foe', NULL), rl_ban('paid', 'foe', NULL), rl_try_lease('jobs', 'k', '1 day')",
    )?;
    for path in PATHS {
        let mut session = database.connect()?;
        set_path(&mut session, path)?;
        session.batch_execute(
            "INSERT INTO public.log VALUES ('a', 1), ('b', 2);
             UPDATE public.log SET k = 'c';
             DELETE FROM public.log",
        )?;
        for view in ["rl_slots", "rl_bans", "rl_stat_limiters"] {
            let rows = session.simple_query(&format!("TABLE public.{view}"))?.len();
            ensure!(rows > 1, "nothing in {view}");
        }
    }
    Ok(())
}

/// In a schema that is full of other objects, by a superuser who has it in the search path: an extension is created and updated
/// with the path that its scripts get.
fn to_create_and_update(bed: &Bed) -> Result<()> {
    let database = bed.database("planted_creation")?;
    let mut session = database.connect()?;
    session.batch_execute(include_str!("planted.sql"))?;
    // Those that the extension itself makes cannot be there: it does not take what it has not made.
    session.batch_execute(
        "CALL planted.relations('planted', 'pg%'); CALL planted.types('planted', '%');
         CREATE TABLE versions AS SELECT version FROM pg_available_extension_versions WHERE name = 'ratelimit'",
    )?;
    let versions: Vec<String> = session.ask("SELECT array_agg(version::text) FROM versions")?;
    session
        .batch_execute("DROP EXTENSION ratelimit; SET search_path = planted, pg_catalog, public")?;
    session.refused("SELECT 1 = 1")?;
    ensure!(!versions.is_empty());
    for schema in ["public", "planted"] {
        for version in &versions {
            if schema == "planted" {
                session.batch_execute("DROP DOMAIN IF EXISTS planted.rl_algorithm, planted.rl_storage, planted.rl_on_rollback, planted.rl_mode")?;
            }
            session.batch_execute(&format!(
                "CREATE EXTENSION ratelimit SCHEMA {schema} VERSION '{version}'; ALTER EXTENSION ratelimit UPDATE"
            ))?;
            set_up(&mut session, schema)?;
            for call in calls(schema, |_| true) {
                session
                    .batch_execute(&call)
                    .with_context(|| format!("{version} in {schema}: {call}"))?;
            }
            session.batch_execute("DROP EXTENSION ratelimit")?;
        }
    }
    Ok(())
}

fn workers_and_dumps(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "100ms").start()?;
    let database = Database::new(&server, "planted")?;
    let mut admin = database.connect()?;
    set_up(&mut admin, "public")?;
    plant(&mut admin)?;
    admin.batch_execute("ALTER DATABASE planted SET search_path = planted, pg_catalog, public")?;
    admin.batch_execute(
        "SELECT rl_create_limiter('brief', '1 per 1 ms', storage => 'durable', max_concurrent => 9);
         SELECT rl_check('brief', 'k'), rl_ban('brief', 'foe', '1 ms'), rl_try_lease('brief', 'k', '1 ms')",
    )?;
    eventually("workers remove what has expired", || {
        admin.ask(
            "SELECT NOT EXISTS (TABLE rl_durable_bans) AND NOT EXISTS (TABLE rl_leases)
                AND NOT EXISTS (TABLE rl_ledger_0) AND NOT EXISTS (TABLE rl_ledger_1)",
        )
    })?;
    a_round_ends(&mut admin)?;
    let error: Option<String> = admin.ask("SELECT last_error FROM rl_info()")?;
    ensure!(error.is_none(), "{error:?}");
    database.connect()?.refused("SELECT 1 = 1")?;
    let dump = run(server.command("pg_dump").arg("planted"), b"")?;
    ensure!(String::from_utf8_lossy(&dump).contains("COPY public.rl_limiters"), "no definitions");
    Ok(())
}

/// What requests call of the recipe that has functions with the rights of their owner.
fn recipes(bed: &Bed) -> Result<()> {
    for last in ["grants", "headers"] {
        let server = postgrest::prepared(bed, last)?;
        let mut admin = server.connect_to("api", "postgres")?;
        plant(&mut admin)?;
        for path in PATHS {
            let mut pool = server.connect_to("api", "authenticator")?;
            if path.starts_with("pg_temp") {
                admin.batch_execute("GRANT TEMPORARY ON DATABASE api TO authenticator")?;
            }
            set_path(&mut pool, path)?;
            let request = |sub: &str| {
                format!(
                    "BEGIN READ ONLY; SET LOCAL ROLE web_anon;
                     SELECT pg_catalog.set_config('request.headers', '{{\"x-forwarded-for\":\"203.0.113.7\"}}', true),
                            pg_catalog.set_config('request.jwt.claims', '{{{sub}}}', true);
                     SELECT request.admit(); COMMIT"
                )
            };
            for (sub, key) in [("", "address 203.0.113.7"), ("\"sub\":\"ann\"", "user ann")] {
                admin.batch_execute(&format!("SELECT rl_reset('requests', '{key}')"))?;
                for _ in 0..postgrest::QUOTA {
                    pool.batch_execute(&request(sub)).with_context(|| format!("{last}, {path}"))?;
                }
                let refusal = pool.refused(&request(sub))?;
                ensure_code(&refusal, if last == "grants" { "PT429" } else { "PGRST" })?;
                pool.batch_execute("ROLLBACK")?;
            }
        }
    }
    Ok(())
}
