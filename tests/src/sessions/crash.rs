//! Processes that die, and servers that start with odd settings.

use std::process::Command;

use anyhow::{ensure, Result};
use testbed::{Server, Stop};

use super::ask::{eventually, run, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_crash_under_load_starts_afresh", a_crash_under_load_starts_afresh),
    ("an_immediate_stop_starts_afresh", an_immediate_stop_starts_afresh),
    ("terminated_sessions_leave_no_key_locked", terminated_sessions_leave_no_key_locked),
    ("few_keys_in_many_partitions_work", few_keys_in_many_partitions_work),
    ("wrong_sizes_give_way_to_the_defaults", wrong_sizes_give_way_to_the_defaults),
];

/// Much work on one key and on many, in one statement.
const LOAD: &str = "
    SELECT count(*) FROM generate_series(1, 1000000000) AS n
     WHERE rl_try_acquire('api', 'key') OR rl_try_acquire('api', 'key ' || n % 10000) AND rl_try_acquire('log', 'key ' || n % 100)";

fn prepare(server: &Server) -> Result<()> {
    let mut session = Database::new(server, "crash")?.connect()?;
    session.limiter("api", 2)?;
    session
        .batch_execute("SELECT rl_create_limiter('log', '50 per 36500 days', 'sliding_log')")
        .map_err(Into::into)
}

/// Two, and not one more, pass.
fn ensure_fresh(server: &Server) -> Result<()> {
    let mut session = server.connect_to("crash", "postgres")?;
    for expected in [true, true, false] {
        ensure!(session.takes("api", "key")? == expected, "not as new");
    }
    let taken: i64 = session.ask("SELECT rl_take('log', 'key 1', 100)")?;
    ensure!(taken == 50, "{taken} of 50 left in the log");
    Ok(())
}

/// Runs the load in four sessions, ends them all by what `end` does to the first, and waits for their end.
fn end_under_load(server: &Server, end: impl FnOnce(&[i32]) -> Result<()>) -> Result<()> {
    std::thread::scope(|scope| {
        let mut pids = Vec::new();
        let mut threads = Vec::new();
        for _ in 0..4 {
            let mut session = server.connect_to("crash", "postgres")?;
            pids.push(session.pid()?);
            threads.push(scope.spawn(move || session.batch_execute(LOAD)));
        }
        let mut observer = server.connect_to("crash", "postgres")?;
        let busy = "SELECT count(*) = 4 FROM pg_stat_activity WHERE query LIKE '%rl_try_acquire%' AND state = 'active'
            AND pid <> pg_backend_pid()";
        eventually("the load runs", || Ok(observer.ask(busy)? && !observer.takes("api", "key")?))?;
        end(&pids)?;
        for thread in threads {
            ensure!(matches!(thread.join(), Ok(Err(_))), "a session did not end");
        }
        Ok(())
    })
}

fn a_crash_under_load_starts_afresh(bed: &Bed) -> Result<()> {
    let mut server = bed.private().setting("restart_after_crash", "on").start()?;
    prepare(&server)?;
    for crashes in 0..3 {
        end_under_load(&server, |pids| {
            run(Command::new("kill").arg("-9").arg(pids[0].to_string()), b"").map(drop)
        })?;
        server.wait_for_crash(crashes)?;
        ensure_fresh(&server)?;
    }
    Ok(())
}

fn an_immediate_stop_starts_afresh(bed: &Bed) -> Result<()> {
    let mut server = bed.private().start()?;
    prepare(&server)?;
    ensure_fresh(&server)?;
    server.restart(Stop::Immediate)?;
    ensure_fresh(&server)
}

fn terminated_sessions_leave_no_key_locked(bed: &Bed) -> Result<()> {
    let server = bed.private().start()?;
    prepare(&server)?;
    for _ in 0..5 {
        end_under_load(&server, |pids| {
            let mut admin = server.connect()?;
            for pid in pids {
                ensure!(admin.ask::<bool>(&format!("SELECT pg_terminate_backend({pid})"))?);
            }
            Ok(())
        })?;
    }
    let mut session = server.connect_to("crash", "postgres")?;
    session.batch_execute("SELECT rl_reset_all('api'), rl_reset_all('log')")?;
    ensure_fresh(&server)
}

fn few_keys_in_many_partitions_work(bed: &Bed) -> Result<()> {
    let server = bed
        .private()
        .setting("ratelimit.max_keys", "100")
        .setting("ratelimit.partitions", "1024")
        .start()?;
    prepare(&server)?;
    ensure_fresh(&server)?;
    let mut session = server.connect_to("crash", "postgres")?;
    session.batch_execute(
        "SELECT rl_try_acquire('api', 'key ' || n) FROM generate_series(1, 10000) AS n",
    )?;
    ensure!(!session.takes("api", "key")?, "a denied key was evicted");
    let keys: i64 = session.ask("SELECT keys FROM rl_info()")?;
    ensure!(keys <= 200, "{keys} keys");
    Ok(())
}

fn wrong_sizes_give_way_to_the_defaults(bed: &Bed) -> Result<()> {
    // What PostgreSQL does with every setting of an extension.
    let builder = bed.private().setting("ratelimit.max_keys", "99");
    let server = builder.setting("ratelimit.partitions", "0").start()?;
    for name in ["ratelimit.max_keys", "ratelimit.partitions"] {
        let complaint = format!("outside the valid range for parameter \"{name}\"");
        ensure!(server.log().contains(&complaint), "no complaint: {}", server.log());
        let default = format!("SELECT setting = boot_val FROM pg_settings WHERE name = '{name}'");
        ensure!(server.connect()?.ask::<bool>(&default)?, "{name} is not the default");
    }
    prepare(&server)?;
    ensure_fresh(&server)
}
