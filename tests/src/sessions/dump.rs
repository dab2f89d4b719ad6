//! Definitions are part of a dump, and counts are not.

use anyhow::{ensure, Result};
use testbed::Server;

use super::ask::{run, Ask, AGE};
use super::kinds::Kind;
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("pg_dump_keeps_definitions", |bed| {
        restored_as_dumped(bed, "plain", |server, from, to| {
            let dump = run(server.command("pg_dump").arg(from), b"")?;
            let mut psql = server.command("psql");
            run(psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", to]), &dump)
        })
    }),
    ("pg_restore_keeps_definitions", |bed| {
        restored_as_dumped(bed, "custom", |server, from, to| {
            let dump = run(server.command("pg_dump").args(["-Fc", from]), b"")?;
            run(server.command("pg_restore").args(["--exit-on-error", "-d", to]), &dump)
        })
    }),
    ("pg_restore_of_data_keeps_definitions", |bed| {
        restored_as_dumped(bed, "data", |server, from, to| {
            server.connect_to(to, "postgres")?.batch_execute("CREATE EXTENSION ratelimit")?;
            let dump = run(server.command("pg_dump").args(["-Fc", "--data-only", from]), b"")?;
            let mut restore = server.command("pg_restore");
            run(restore.args(["--exit-on-error", "--disable-triggers", "-d", to]), &dump)
        })
    }),
];

/// All that defines a limit.
const DEFINITIONS: &str = "
    SELECT jsonb_build_object('limiters', (SELECT jsonb_agg(l ORDER BY l.name) FROM rl_limiters AS l),
                              'rules', (SELECT jsonb_agg(r ORDER BY r.limiter, r.position) FROM rl_rules AS r),
                              'overrides', (SELECT jsonb_agg(o ORDER BY o.limiter, o.key) FROM rl_overrides AS o))::text";

type Restore = fn(&Server, &str, &str) -> Result<Vec<u8>>;

fn restored_as_dumped(bed: &Bed, name: &str, restore: Restore) -> Result<()> {
    let (from, to) = (format!("dumped_{name}"), format!("restored_{name}"));
    let database = bed.database(&from)?;
    let server = database.server();
    let mut session = database.connect()?;
    session.limiter("api", 2)?;
    session.batch_execute(
        "SELECT rl_create_limiter('login', '5 per 5 minutes, 20 per day', 'sliding_log', description => 'log-ins');
         SELECT rl_create_limiter('bill', '10000 per month', 'fixed_window', time_zone => 'Europe/Berlin');
         SELECT rl_create_limiter('naïve \"name\"', '10/second burst 20', refill => 'interval');
         INSERT INTO rl_overrides (limiter, key, action, quota, burst, expires_at, reason)
         VALUES ('api', 'foe', 'deny', NULL, NULL, '2099-01-01', 'abuse'), ('api', 'vip', 'limit', 5, 9, NULL, NULL)",
    )?;
    Kind::Durable.create(&mut session, "paid", &format!("2 per {AGE}"), "sliding_log")?;
    for limiter in ["api", "paid"] {
        ensure!(session.takes(limiter, "key")?);
        // Half of what is durable is folded then.
        session.ask::<i64>("SELECT rl_purge()")?;
        ensure!(session.takes(limiter, "key")?);
    }
    let definitions: String = session.ask(DEFINITIONS)?;

    server.connect()?.batch_execute(&format!("CREATE DATABASE {to}"))?;
    restore(server, &from, &to)?;
    let mut session = server.connect_to(&to, "postgres")?;
    let restored: String = session.ask(DEFINITIONS)?;
    ensure!(restored == definitions, "not as dumped:\n{definitions}\n{restored}");
    for limiter in ["api", "paid"] {
        for expected in [true, true, false] {
            ensure!(session.takes(limiter, "key")? == expected, "{limiter} does not count afresh");
        }
    }
    Ok(())
}
