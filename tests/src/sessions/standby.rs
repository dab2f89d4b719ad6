//! A hot standby decides by itself, by the definitions that it receives.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{ensure, Result};
use testbed::{Server, Stop};

use super::ask::{ensure_code, eventually, run, Ask};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[("a_standby_decides_by_itself", a_standby_decides_by_itself)];

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
