//! A server that did not load the library at its start. From PostgreSQL 17 on, sessions get shared memory all the same.

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::{Builder, Server, Stop};

use super::ask::{ensure_code, run, Ask};
use super::kinds::Kind;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("without_preload_calls_work_or_say_what_to_do", |bed| {
        calls_work_or_say_what_to_do(bed, bed.private().preload(false))
    }),
    ("a_library_loaded_by_the_session_does_the_same", |bed| {
        let builder =
            bed.private().preload(false).setting("session_preload_libraries", "ratelimit");
        calls_work_or_say_what_to_do(bed, builder)
    }),
    ("without_preload_definitions_can_be_restored", definitions_can_be_restored),
    ("without_preload_a_transaction_may_use_any_number_of_keys", any_number_of_keys),
    ("without_preload_sessions_share_memory", sessions_share_memory),
    ("without_preload_no_role_sets_the_size", no_role_sets_the_size),
    ("without_preload_memory_that_cannot_be_had_is_an_error", memory_that_cannot_be_had),
    ("without_preload_a_restart_starts_afresh", a_restart_starts_afresh),
];

/// Whether sessions of this server can make shared memory.
fn sessions_have_memory(bed: &Bed) -> bool {
    bed.tree().major >= 17
}

/// What needs the library's shared memory.
const CALLS: &[&str] = &[
    "SELECT rl_create_limiter('new', '100 per minute', storage => 'memory')",
    "SELECT rl_try_acquire('api', 'key')",
    "SELECT rl_check('api', 'key')",
    "SELECT rl_peek('api', 'key')",
    "SELECT rl_enforce('api', 'key')",
    "SELECT rl_take('api', 'key', 1)",
    "SELECT rl_refund('api', 'key')",
    "SELECT rl_penalize('api', 'key')",
    "SELECT rl_check_all('{api}', '{key}')",
    "SELECT rl_try_acquire_many('api', '{key}')",
    "SELECT rl_sliding_check('key', 1, '1 hour')",
    "SELECT rl_throttle('key', 1, '1 hour')",
    "SELECT rl_http_headers('api', 'key')",
    "SELECT rl_reset('api', 'key')",
    "SELECT rl_reset_all('api')",
    "INSERT INTO calls VALUES (1)",
];

const DEFINITION: &str = "
    INSERT INTO rl_limiters (name) VALUES ('api');
    INSERT INTO rl_rules (limiter, quota, period) VALUES ('api', 100, '1 hour');";

fn calls_work_or_say_what_to_do(bed: &Bed, builder: Builder) -> Result<()> {
    let server = builder.setting("log_min_messages", "notice").start()?;
    let mut session = Database::new(&server, "unloaded")?.connect()?;
    session.batch_execute(DEFINITION)?;
    session.batch_execute(
        "CREATE TABLE calls (key int);
         CREATE TRIGGER quota BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION rl_limit_row('api', '{key}')",
    )?;
    let pid = session.pid()?;
    for call in CALLS {
        if sessions_have_memory(bed) {
            session.batch_execute(call).with_context(|| (*call).to_owned())?;
            continue;
        }
        let error = session.refused(call)?;
        ensure_code(&error, "55000")?;
        let hint = error.hint().unwrap_or_default();
        ensure!(hint.contains("shared_preload_libraries"), "{call}: the hint is {hint:?}");
    }
    ensure!(session.pid()? == pid, "the connection did not survive");

    let create = "SELECT rl_create_limiter('default', '100 per minute')";
    session.batch_execute(create)?;
    let chosen: String =
        session.ask("SELECT storage::text FROM rl_limiters WHERE name = 'default'")?;
    let expected = if sessions_have_memory(bed) { "memory" } else { "durable" };
    ensure!(chosen == expected, "the default is {chosen}");
    ensure!(session.takes("default", "key")?);
    let notice = "NOTICE:  limiter \"default\" is durable";
    ensure!(server.log().contains(notice) != sessions_have_memory(bed), "{}", server.log());

    let info = "SELECT NOT preloaded AND keys IS NOT NULL = $1 AND max_keys IS NOT NULL = $1 FROM rl_info()";
    ensure!(session.query_one(info, &[&sessions_have_memory(bed)])?.get::<_, bool>(0));
    ensure!(session.ask::<i64>("SELECT rl_purge()")? == 0);
    let simulated = "SELECT count(*) FROM rl_simulate('1/s', ARRAY[now(), now()]) WHERE allowed";
    ensure!(session.ask::<i64>(simulated)? == 1);
    session
        .batch_execute("UPDATE rl_rules SET quota = 50; SELECT rl_clone_limiter('api', 'copy')")?;
    ensure_code(&session.refused("UPDATE rl_rules SET quota = 0, burst = 5")?, "22023")?;
    ensure!(session.ask::<bool>("SELECT rl_drop_limiter('api')")?);
    Ok(())
}

fn definitions_can_be_restored(bed: &Bed) -> Result<()> {
    let server = bed.private().preload(false).start()?;
    let database = Database::new(&server, "dumped")?;
    database.connect()?.batch_execute(DEFINITION)?;
    let dump = run(server.command("pg_dump").arg("dumped"), b"")?;
    server.connect()?.batch_execute("CREATE DATABASE restored")?;
    let mut psql = server.command("psql");
    run(psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "restored"]), &dump)?;
    let mut session = server.connect_to("restored", "postgres")?;
    ensure!(session.ask::<i64>("SELECT quota FROM rl_rules WHERE limiter = 'api'")? == 100);
    Ok(())
}

/// Keys are locked where there is no shared memory, and the server's lock table is everybody's.
fn any_number_of_keys(bed: &Bed) -> Result<()> {
    let server = bed.private().preload(false).setting("ratelimit.max_keys", "50000").start()?;
    let mut session = Database::new(&server, "unloaded")?.connect()?;
    Kind::Durable.create_all(&mut session, 10)?;
    let each = "FROM generate_series(1, 20000) AS n WHERE";
    session.batch_execute("BEGIN")?;
    let taken: i64 = session
        .ask(&format!("SELECT count(*) {each} rl_try_acquire('token_bucket', 'key ' || n, 4)"))?;
    ensure!(taken == 20_000, "{taken} were taken");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    let locks: i64 = session.ask(locks)?;
    ensure!(locks <= 1_024, "{locks} locks");
    session.batch_execute("COMMIT")?;
    let left = "(SELECT remaining FROM rl_peek('token_bucket', 'key ' || n, 0))";
    let left: i64 = session.ask(&format!("SELECT count(*) {each} {left} = 6"))?;
    ensure!(left == 20_000, "{left} keys have 6 left");
    Ok(())
}

/// A server whose sessions have memory, with a limiter of 100; nothing before PostgreSQL 17.
fn start(bed: &Bed, builder: Builder) -> Result<Option<Server>> {
    if !sessions_have_memory(bed) {
        return Ok(None);
    }
    let server = builder.preload(false).start()?;
    Database::new(&server, "unloaded")?;
    session(&server)?.limiter("api", 100)?;
    Ok(Some(server))
}

fn session(server: &Server) -> Result<Client> {
    server.connect_to("unloaded", "postgres")
}

fn sessions_share_memory(bed: &Bed) -> Result<()> {
    let Some(mut server) = start(bed, bed.private().setting("restart_after_crash", "on"))? else {
        return Ok(());
    };
    for _ in 0..2 {
        // Nobody has made the memory yet, and all of them want it at once.
        server.restart(Stop::Fast)?;
        let passed = std::thread::scope(|scope| {
            let sessions = (0..8).map(|_| session(&server)).collect::<Result<Vec<_>>>()?;
            let threads: Vec<_> = sessions
                .into_iter()
                .map(|mut session| {
                    scope.spawn(move || {
                        session.ask::<i64>("SELECT count(*) FROM generate_series(1, 50) WHERE rl_try_acquire('api', 'key')")
                    })
                })
                .collect();
            let passed = threads.into_iter().map(|thread| thread.join().ok().context("it died")?);
            passed.sum::<Result<i64>>()
        })?;
        ensure!(passed == 100, "{passed} of 100 passed");
    }

    // It stays when all sessions have gone, and tells those that are in a transaction of changed definitions.
    let (mut one, mut other) = (session(&server)?, session(&server)?);
    let mut transaction = one.transaction()?;
    ensure!(!transaction.takes("api", "key")?);
    other.batch_execute("UPDATE rl_rules SET quota = 200, burst = 200")?;
    ensure!(transaction.quota("api")? == 200, "the commit was not seen");
    Ok(())
}

fn no_role_sets_the_size(bed: &Bed) -> Result<()> {
    let Some(mut server) = start(bed, bed.private().setting("ratelimit.max_keys", "5000"))? else {
        return Ok(());
    };
    session(&server)?
        .batch_execute("CREATE ROLE ordinary LOGIN; SELECT rl_grant_admin('ordinary')")?;
    const MAX_KEYS: &str = "SELECT max_keys FROM rl_info()";

    // Before the library is loaded, settings are names like any other. This session makes the memory.
    server.restart(Stop::Fast)?;
    let mut ordinary = server.connect_to("unloaded", "ordinary")?;
    ordinary.batch_execute(
        "SET ratelimit.max_keys = 400; SET ratelimit.partitions = 3; SET ratelimit.enabled = off",
    )?;
    ensure!(ordinary.ask::<i64>(MAX_KEYS)? == 5_000);
    ensure!(ordinary.ask::<i64>("SELECT rl_take('api', 'key', 1000)")? == 100, "not enforced");
    for (name, value) in [("max_keys", "5000"), ("partitions", "16"), ("enabled", "on")] {
        ensure!(ordinary.ask::<String>(&format!("SHOW ratelimit.{name}"))? == value, "{name}");
    }
    ensure_code(&ordinary.refused("SET ratelimit.max_keys = 400")?, "55P02")?;
    drop(ordinary);

    // Options of a connection hide what the file says: with them, a session only joins.
    server.restart(Stop::Fast)?;
    let mut config = server.config();
    config.dbname("unloaded").user("ordinary").options("-c ratelimit.max_keys=400");
    let mut ordinary = config.connect(postgres::NoTls)?;
    ensure_code(&ordinary.refused(MAX_KEYS)?, "55000")?;
    ensure!(session(&server)?.ask::<i64>(MAX_KEYS)? == 5_000);
    ensure!(ordinary.ask::<i64>(MAX_KEYS)? == 5_000);
    drop(ordinary);

    // What the file says later is for the next start.
    session(&server)?.batch_execute("ALTER SYSTEM SET ratelimit.max_keys = 7000")?;
    ensure!(session(&server)?.ask::<bool>("SELECT pg_reload_conf()")?);
    ensure!(session(&server)?.ask::<i64>(MAX_KEYS)? == 5_000);
    server.restart(Stop::Fast)?;
    ensure!(session(&server)?.ask::<i64>(MAX_KEYS)? == 7_000);
    Ok(())
}

fn memory_that_cannot_be_had(bed: &Bed) -> Result<()> {
    let Some(mut server) = start(bed, bed.private())? else {
        return Ok(());
    };
    server.restart(Stop::Fast)?;
    let mut session = session(&server)?;
    let pid = session.pid()?;
    // No file of this process, and so no shared memory, may grow larger than 4 MB. Its own user may say so.
    let mut admin = server.connect()?;
    let mut limit = |size: &str| {
        admin.batch_execute(&format!(
            "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null && prlimit --pid={pid} --fsize={size}:'"
        ))
    };
    limit("4194304")?;
    for call in ["SELECT rl_try_acquire('api', 'key')", "SELECT * FROM rl_info()"] {
        let error = session.refused(call)?;
        ensure_code(&error, "53200")?;
        ensure!(error.hint().is_some_and(|hint| hint.contains("ratelimit.max_keys")), "{error:?}");
    }
    // An error that is caught leaves nothing locked.
    session.batch_execute(
        "DO $$ BEGIN PERFORM rl_try_acquire('api', 'key'); EXCEPTION WHEN out_of_memory THEN NULL; END $$",
    )?;
    limit("unlimited")?;
    ensure!(session.left("api", "key")? == 100);
    ensure!(session.pid()? == pid && session.takes("api", "key")?);
    Ok(())
}

fn a_restart_starts_afresh(bed: &Bed) -> Result<()> {
    let Some(mut server) = start(bed, bed.private().setting("restart_after_crash", "on"))? else {
        return Ok(());
    };
    for stop in [Stop::Fast, Stop::Immediate] {
        ensure!(session(&server)?.takes("api", "key")?);
        ensure!(session(&server)?.left("api", "key")? == 99, "sessions do not share it");
        server.restart(stop)?;
        ensure!(!server.pgdata().join("ratelimit.state").exists(), "it was saved");
        ensure!(session(&server)?.left("api", "key")? == 100);
    }
    Ok(())
}
