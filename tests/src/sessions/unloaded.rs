//! A server that did not load the library at its start.

use anyhow::{ensure, Result};
use testbed::Server;

use super::ask::{ensure_code, run, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("without_preload_calls_say_what_to_do", |bed| {
        calls_say_what_to_do(&bed.private().preload(false).start()?)
    }),
    ("a_library_loaded_by_the_session_says_the_same", |bed| {
        let builder =
            bed.private().preload(false).setting("session_preload_libraries", "ratelimit");
        calls_say_what_to_do(&builder.start()?)
    }),
    ("without_preload_definitions_can_be_restored", definitions_can_be_restored),
];

/// What needs the library's shared memory.
const CALLS: &[&str] = &[
    "SELECT rl_create_limiter('new', '100 per minute')",
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

fn calls_say_what_to_do(server: &Server) -> Result<()> {
    let mut session = Database::new(server, "unloaded")?.connect()?;
    session.batch_execute(DEFINITION)?;
    session.batch_execute(
        "CREATE TABLE calls (key int);
         CREATE TRIGGER quota BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION rl_limit_row('api', '{key}')",
    )?;
    let pid = session.pid()?;
    for call in CALLS {
        let error = session.refused(call)?;
        ensure_code(&error, "55000")?;
        let hint = error.hint().unwrap_or_default();
        ensure!(hint.contains("shared_preload_libraries"), "{call}: the hint is {hint:?}");
    }
    ensure!(session.pid()? == pid, "the connection did not survive");

    ensure!(!session.ask::<bool>("SELECT preloaded FROM rl_info()")?);
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
