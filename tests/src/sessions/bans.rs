//! Bans in memory whose limiters are gone. Those of durable limiters are in `isolation/specs`.

use anyhow::{ensure, Result};
use postgres::Client;

use super::ask::{eventually, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("bans_go_with_their_limiter", bans_go_with_their_limiter),
    ("bans_stay_with_a_limiter_that_others_cannot_see", bans_of_an_open_transaction),
    ("bans_go_with_their_database", bans_go_with_their_database),
    ("a_flood_of_bans_that_end_lets_others_hold", a_flood_of_bans),
];

/// How many bans shared memory holds for this database, also of limiters that are gone.
fn held(session: &mut Client) -> Result<i64> {
    session.ask("SELECT count(*) FROM _rl_bans()")
}

const BAN_MANY: &str =
    "SELECT rl_ban('api', 'key ' || n, NULL, 'because') FROM generate_series(1, 100) AS n";
const DROP: &str = "SELECT rl_drop_limiter('api')";

fn bans_go_with_their_limiter(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let mut session = Database::new(&server, "bans")?.connect()?;
    session.limiter("other", 10)?;
    session.batch_execute("SELECT rl_ban('other', 'key', NULL)")?;
    session.limiter("api", 10)?;
    session.batch_execute(BAN_MANY)?;
    ensure!(session.ask::<i64>("SELECT keys FROM rl_info()")? == 101, "bans are keys");
    // Not before the commit.
    session.batch_execute("BEGIN; SELECT rl_drop_limiter('api'), rl_purge(); ROLLBACK")?;
    ensure!(held(&mut session)? == 101);
    session.batch_execute(DROP)?;
    session.batch_execute("SELECT rl_purge()")?;
    ensure!(held(&mut session)? == 1 && session.ask::<i64>("SELECT keys FROM rl_info()")? == 1);
    ensure!(!session.takes("other", "key")?);
    // By the worker, too.
    session.limiter("api", 10)?;
    session.batch_execute(BAN_MANY)?;
    for command in
        ["ALTER SYSTEM SET ratelimit.purge_interval = '100ms'", "SELECT pg_reload_conf()", DROP]
    {
        session.batch_execute(command)?;
    }
    eventually("the worker ends them", || Ok(held(&mut session)? == 1))
}

fn bans_of_an_open_transaction(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let database = Database::new(&server, "bans")?;
    let (mut session, mut other) = (database.connect()?, database.connect()?);
    session.batch_execute("BEGIN")?;
    session.limiter("api", 10)?;
    session.batch_execute("SELECT rl_ban('api', 'key', NULL)")?;
    other.batch_execute("SELECT rl_purge()")?;
    session.batch_execute("COMMIT")?;
    ensure!(!other.takes("api", "key")?);
    // Nor does it matter what the limiter is called by now.
    session.batch_execute("BEGIN; UPDATE rl_limiters SET name = 'a'")?;
    other.batch_execute("SELECT rl_purge()")?;
    session.batch_execute("COMMIT; SELECT rl_purge()")?;
    ensure!(!other.takes("a", "key")?);
    Ok(())
}

fn a_flood_of_bans(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let mut session = Database::new(&server, "bans")?.connect()?;
    session.limiter("api", 10)?;
    session.batch_execute(BAN_MANY)?;
    // More than are remembered before house-keeping looks which have ended; and twice, as there are two filters.
    for _ in 0..2 {
        session.batch_execute(
            "SELECT count(rl_ban('api', 'short ' || n, '1 us')) FROM generate_series(1, 40000) AS n;
             SELECT rl_purge()",
        )?;
        let sql = "SELECT count(*) FROM generate_series(1, 100) AS n WHERE rl_try_acquire('api', 'key ' || n)";
        ensure!(session.ask::<i64>(sql)? == 0, "a ban was forgotten");
        ensure!(session.takes("api", "short 1")?);
    }
    Ok(())
}

fn bans_go_with_their_database(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "100ms").start()?;
    let mut session = Database::new(&server, "banned")?.connect()?;
    session.limiter("api", 10)?;
    session.batch_execute(BAN_MANY)?;
    drop(session);
    let mut other = Database::new(&server, "other")?.connect()?;
    ensure!(other.ask::<i64>("SELECT keys FROM rl_info()")? == 100);
    other.batch_execute("DROP DATABASE banned WITH (FORCE)")?;
    eventually(
        "the launcher ends them",
        || Ok(other.ask::<i64>("SELECT keys FROM rl_info()")? == 0),
    )
}
