//! Nothing that changes a verdict can be set by an ordinary user.

use anyhow::{ensure, Context, Result};

use super::ask::{ensure_code, Ask};
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("an_ordinary_role_cannot_change_verdicts", an_ordinary_role_cannot_change_verdicts),
    ("a_role_that_was_granted_a_setting_can", a_role_that_was_granted_a_setting_can),
    ("disabled_allows_all_and_counts_nothing", disabled_allows_all_and_counts_nothing),
    ("unknown_settings_are_refused", unknown_settings_are_refused),
    ("sizes_are_fixed_while_the_server_runs", sizes_are_fixed_while_the_server_runs),
    ("a_key_costs_128_bytes_of_shared_memory", a_key_costs_128_bytes),
];

fn an_ordinary_role_cannot_change_verdicts(bed: &Bed) -> Result<()> {
    let database = bed.database("ordinary_role")?;
    let mut admin = database.connect()?;
    admin.limiter("api", 1)?;
    admin.batch_execute(
        "CREATE ROLE ordinary LOGIN; SELECT rl_grant_admin('ordinary'); GRANT CREATE ON SCHEMA public TO ordinary",
    )?;
    let mut session = database.connect_as("ordinary")?;
    for setting in ["ratelimit.enabled = off", "ratelimit.on_full = allow"] {
        for statement in [
            format!("SET {setting}"),
            format!("BEGIN; SET LOCAL {setting}"),
            format!("ALTER ROLE ordinary SET {setting}"),
            format!("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET {setting} AS 'SELECT 1'"),
        ] {
            ensure_code(&session.refused(&statement)?, "42501")?;
            session.batch_execute("ROLLBACK")?;
        }
        let mut config = database.server().config();
        let options = format!("-c {}", setting.replace(' ', ""));
        config.dbname(database.name()).user("ordinary").options(&options);
        let error = config.connect(postgres::NoTls).err().context("connected with the option")?;
        ensure!(error.code().is_some_and(|code| code.code() == "42501"), "{error}");
    }
    ensure_code(
        &session.refused("SELECT set_config('ratelimit.enabled', 'off', false)")?,
        "42501",
    )?;
    ensure!(session.takes("api", "key")? && !session.takes("api", "key")?);
    Ok(())
}

fn a_role_that_was_granted_a_setting_can(bed: &Bed) -> Result<()> {
    let database = bed.database("granted_setting")?;
    let mut admin = database.connect()?;
    admin.batch_execute(
        "CREATE ROLE trusted LOGIN; GRANT SET ON PARAMETER ratelimit.enabled TO trusted",
    )?;
    let mut session = database.connect_as("trusted")?;
    session.batch_execute("SET ratelimit.enabled = off")?;
    ensure_code(&session.refused("SET ratelimit.on_full = allow")?, "42501")?;
    admin
        .batch_execute("REVOKE ALL ON PARAMETER ratelimit.enabled FROM trusted")
        .map_err(Into::into)
}

fn disabled_allows_all_and_counts_nothing(bed: &Bed) -> Result<()> {
    let database = bed.database("disabled")?;
    let (mut session, mut other) = (database.connect()?, database.connect()?);
    session.limiter("api", 2)?;
    ensure!(session.takes("api", "key")?);
    session.batch_execute("SET ratelimit.enabled = off")?;
    for _ in 0..5 {
        ensure!(session.takes("api", "key")?);
        ensure!(session.takes("api", "new key")?);
    }
    ensure!(session.ask::<bool>(
        "SELECT allowed AND quota IS NULL AND remaining IS NULL FROM rl_check('api', 'key', 1000)"
    )?);
    ensure!(session.ask::<i64>("SELECT rl_take('api', 'key', 1000)")? == 1000);
    session.batch_execute(
        "SELECT rl_enforce('api', 'key'), rl_refund('api', 'key'), rl_penalize('api', 'key', 100)",
    )?;
    // Only for this session, and still an error where there is no limiter.
    ensure!(other.left("api", "key")? == 1 && other.left("api", "new key")? == 2, "it was counted");
    ensure_code(&session.refused("SELECT rl_try_acquire('unknown', 'key')")?, "42704")?;
    session.batch_execute("RESET ratelimit.enabled")?;
    ensure!(session.takes("api", "key")? && !session.takes("api", "key")?);
    Ok(())
}

fn unknown_settings_are_refused(bed: &Bed) -> Result<()> {
    let mut session = bed.shared()?.connect()?;
    ensure_code(&session.refused("SET ratelimit.enable = off")?, "42602")?;
    ensure_code(&session.refused("SET ratelimit.on_full = 'sometimes'")?, "22023")
}

fn sizes_are_fixed_while_the_server_runs(bed: &Bed) -> Result<()> {
    let mut session = bed.shared()?.connect()?;
    ensure_code(&session.refused("SET ratelimit.max_keys = 1000")?, "55P02")?;
    ensure_code(&session.refused("SET ratelimit.partitions = 8")?, "55P02")
}

fn a_key_costs_128_bytes(bed: &Bed) -> Result<()> {
    let mut session = bed.shared()?.connect()?;
    let all: i64 =
        session.ask("SELECT allocated_size FROM pg_shmem_allocations WHERE name = 'ratelimit'")?;
    let keys: i64 = session.ask("SELECT current_setting('ratelimit.max_keys')::bigint")?;
    ensure!(all <= 128 * keys, "{all} bytes for {keys} keys");
    ensure!(all > 127 * keys, "{all} bytes have no room for {keys} keys");
    Ok(())
}
