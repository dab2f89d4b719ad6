//! A hot standby decides by itself, by the definitions that it receives.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{ensure, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{ensure_code, eventually, run, Ask};
use super::kinds::{Kind, ALGORITHMS};
use super::worker::a_round_ends;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("a_standby_decides_by_itself", a_standby_decides_by_itself),
    ("durable_limits_follow_a_promotion", durable_limits_follow_a_promotion),
];

/// A server that follows `primary`.
pub fn standby_of(bed: &Bed, primary: &Server) -> Result<Server> {
    let mut standby = bed.private().start()?;
    standby.stop(Stop::Immediate)?;
    let data = standby.pgdata();
    let settings = fs::read_to_string(data.join("postgresql.conf"))?;
    let owner = fs::metadata(&data)?;
    fs::remove_dir_all(&data)?;
    let mut backup = primary.command("pg_basebackup");
    run(backup.args(["--checkpoint=fast", "--no-sync", "--pgdata"]).arg(&data), b"")?;
    let source = format!("host={} port={} user=postgres", primary.host(), primary.port());
    fs::write(data.join("postgresql.conf"), format!("{settings}primary_conninfo = '{source}'\n"))?;
    fs::write(data.join("standby.signal"), "")?;
    let owner = format!("{}:{}", owner.uid(), owner.gid());
    run(Command::new("chown").arg("-R").arg(owner).arg(&data), b"")?;
    standby.start_again()?;
    Ok(standby)
}

fn a_standby_decides_by_itself(bed: &Bed) -> Result<()> {
    let primary = bed.private().start()?;
    let mut admin = Database::new(&primary, "followed")?.connect()?;
    admin.limiter("api", 2)?;
    ensure!(admin.takes("api", "key")?);

    let standby = standby_of(bed, &primary)?;
    let mut session = standby.connect_to("followed", "postgres")?;
    ensure!(session.ask::<bool>("SELECT pg_is_in_recovery()")?);
    for expected in [true, true, false] {
        ensure!(session.takes("api", "key")? == expected, "the standby does not count by itself");
    }
    ensure!(admin.left("api", "key")? == 1, "the primary counted what the standby took");
    // Waits and slots are its own as well.
    admin.batch_execute(
        "SELECT rl_create_limiter('turns', '50 per second burst 1', max_concurrent => 1)",
    )?;
    eventually("the limiter arrives", || session.ask("SELECT count(*) = 2 FROM rl_limiters"))?;
    for _ in 0..2 {
        ensure!(session.ask::<bool>("SELECT allowed FROM rl_acquire('turns', 'key')")?);
    }
    ensure!(session.ask::<bool>("SELECT rl_try_session_slot('turns', 'key')")?);
    ensure!(!session.ask::<bool>("SELECT rl_try_slot('turns', 'key')")?);
    ensure!(session.ask::<bool>("SELECT rl_release_session_slot('turns', 'key')")?);
    admin.ask::<bool>("SELECT rl_drop_limiter('turns')")?;

    // Also in the middle of a transaction with an old snapshot.
    let mut transaction = session
        .build_transaction()
        .isolation_level(postgres::IsolationLevel::RepeatableRead)
        .start()?;
    ensure!(transaction.quota("api")? == 2);
    admin.batch_execute("UPDATE rl_rules SET quota = 5")?;
    eventually("the new quota arrives", || Ok(transaction.quota("api")? == 5))?;
    transaction.rollback()?;

    admin.ask::<bool>("SELECT rl_drop_limiter('api')")?;
    let gone = "SELECT NOT EXISTS (SELECT FROM rl_limiters)";
    eventually("the limiter is gone", || session.ask(gone))?;
    ensure_code(&session.refused("SELECT rl_try_acquire('api', 'key')")?, "42704")?;
    ensure_code(&session.refused("SELECT rl_create_limiter('mine', '1/s')")?, "25006")?;

    // What it counted stays when it becomes a primary.
    admin.limiter("api", 2)?;
    eventually("the limiter arrives", || Ok(!session.ask::<bool>(gone)?))?;
    ensure!(session.takes("api", "key")?);
    ensure!(session.ask::<bool>("SELECT pg_promote()")?);
    ensure!(session.left("api", "key")? == 1, "promotion forgot what was taken");
    session.batch_execute("UPDATE rl_rules SET period = '73000 days', quota = 3")?;
    ensure!(session.quota("api")? == 3);
    Ok(())
}

fn durable_limits_follow_a_promotion(bed: &Bed) -> Result<()> {
    let mut primary = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let mut admin = Database::new(&primary, "followed")?.connect()?;
    Kind::Durable.create_all(&mut admin, 100)?;
    admin.limiter("api", 2)?;
    let each = |session: &mut Client, call: &str| {
        let mut all = ALGORITHMS.into_iter();
        all.try_for_each(|name| session.batch_execute(&call.replace("LIMITER", name)))
    };
    each(&mut admin, "SELECT rl_enforce('LIMITER', 'key', 10)")?;
    admin.batch_execute("ALTER SYSTEM SET ratelimit.purge_interval = '100ms'")?;

    let mut standby = standby_of(bed, &primary)?;
    let mut session = standby.connect_to("followed", "postgres")?;
    for call in ["rl_try_acquire('LIMITER', 'key')", "rl_peek('LIMITER', 'key')"] {
        for name in ALGORITHMS {
            let error = session.refused(&format!("SELECT {}", call.replace("LIMITER", name)))?;
            ensure_code(&error, "25006")?;
            ensure!(error.hint().is_some_and(|hint| hint.contains("\"memory\"")), "{error:?}");
        }
    }
    // Other limits are decided until they become durable.
    ensure!(session.takes("api", "key")?);
    admin.batch_execute(
        "UPDATE rl_limiters SET storage = 'durable', on_rollback = 'refund' WHERE name = 'api'",
    )?;
    eventually("the limiter becomes durable", || {
        Ok(session.batch_execute("SELECT rl_peek('api', 'key')").is_err())
    })?;
    ensure_code(&session.refused("SELECT rl_try_acquire('api', 'key')")?, "25006")?;

    // What is folded, what is in a ledger only, and what is given back: all of it follows.
    each(&mut admin, "SELECT rl_enforce('LIMITER', 'key', 20)")?;
    ensure!(admin.ask::<i64>("SELECT rl_purge()")? > 0, "nothing was folded");
    each(
        &mut admin,
        "SELECT rl_enforce('LIMITER', 'key', 9); SELECT rl_refund('LIMITER', 'key', 2)",
    )?;
    each(&mut admin, "BEGIN; SELECT rl_enforce('LIMITER', 'key', 5); ROLLBACK")?;
    each(&mut admin, "SELECT rl_enforce('LIMITER', 'other', 100)")?;
    admin.batch_execute("UPDATE rl_rules SET quota = 200 WHERE limiter = 'fixed_window'")?;
    let mut open = primary.connect_to("followed", "postgres")?;
    open.batch_execute("BEGIN")?;
    each(&mut open, "SELECT rl_enforce('LIMITER', 'key', 30)")?;
    let written: String = admin.ask("SELECT pg_current_wal_flush_lsn()::text")?;
    eventually("all of it arrives", || {
        session.ask(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"))
    })?;
    primary.stop(Stop::Immediate)?;

    ensure!(session.ask::<bool>("SELECT pg_promote()")?);
    let quota = |name| if name == "fixed_window" { 200 } else { 100 };
    for name in ALGORITHMS {
        let (left, other) = (session.left(name, "key")?, session.left(name, "other")?);
        ensure!(left == quota(name) - 37, "{name}: {left} left");
        ensure!(other == quota(name) - 100, "{name}: {other} left of the other key");
    }
    // It keeps house now, and grants what is left, also after a crash of its own.
    a_round_ends(&mut session)?;
    each(&mut session, "SELECT rl_enforce('LIMITER', 'key', 3)")?;
    standby.restart(Stop::Immediate)?;
    let mut session = standby.connect_to("followed", "postgres")?;
    for name in ALGORITHMS {
        let taken: i64 = session.ask(&format!("SELECT rl_take('{name}', 'key', 1000)"))?;
        ensure!(taken == quota(name) - 40, "{name}: {taken} taken");
        ensure!(!session.takes(name, "key")?, "{name}: more than the quota");
    }
    Ok(())
}
