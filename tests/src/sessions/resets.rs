//! Resets of durable keys that others use at the same time.

use anyhow::{ensure, Context, Result};
use postgres::Client;
use testbed::{Server, Stop};

use super::ask::{ensure_code, eventually, Ask};
use super::kinds::{Kind, ALGORITHMS};
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("what_is_taken_while_a_reset_commits_is_counted", taken_while_a_reset_commits),
    ("a_reset_that_fails_to_commit_forgets_nothing", fails_to_commit),
];

const NAME: &str = "resets";

fn connect(server: &Server) -> Result<Client> {
    server.connect_to(NAME, "postgres")
}

/// Checks what is left of 10 under each algorithm, by the copies and then by the tables.
fn ensure_left(server: &mut Server, left: i64) -> Result<()> {
    for whence in ["the copy", "the tables"] {
        for limiter in ALGORITHMS {
            let found = connect(server)?.left(limiter, "key")?;
            ensure!(found == left, "{limiter}: {found} left instead of {left}, says {whence}");
        }
        server.restart(Stop::Immediate)?;
    }
    Ok(())
}

/// What a session waits for while it runs a statement, if it still does.
fn waits(observer: &mut Client, pid: i32) -> Result<Option<String>> {
    observer.ask(&format!(
        "SELECT max(wait_event_type || ' ' || wait_event) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'"
    ))
}

fn taken_while_a_reset_commits(bed: &Bed) -> Result<()> {
    let mut server = bed.private().setting("synchronous_commit", "local").start()?;
    let mut observer = Database::new(&server, NAME)?.connect()?;
    Kind::Durable.create_all(&mut observer, 10)?;
    // A standby that never answers keeps a commit waiting after it has been written.
    observer.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")?;
    observer.ask::<bool>("SELECT pg_reload_conf()")?;
    for limiter in ALGORITHMS {
        let take = |n| format!("SELECT rl_enforce('{limiter}', 'key', {n})");
        observer.batch_execute(&take(4))?;
        let mut open = connect(&server)?;
        open.batch_execute(&format!("BEGIN; {}", take(2)))?;
        let (mut admin, mut taker) = (connect(&server)?, connect(&server)?);
        let (admin_pid, taker_pid) = (admin.pid()?, taker.pid()?);
        admin.batch_execute("SET synchronous_commit = on")?;
        eventually("commits wait", || {
            Ok(admin.ask::<String>("SHOW synchronous_standby_names")? == "nobody")
        })?;
        std::thread::scope(|scope| -> Result<()> {
            let reset = format!("SELECT rl_reset('{limiter}', 'key')");
            let resetting = scope.spawn(move || admin.ask::<bool>(&reset));
            eventually("the reset commits", || {
                Ok(waits(&mut observer, admin_pid)?.as_deref() == Some("IPC SyncRep"))
            })?;
            let taking = scope.spawn(move || taker.batch_execute(&take(3)));
            eventually("the other session waits, or has taken", || {
                Ok(taking.is_finished()
                    || waits(&mut observer, taker_pid)?.as_deref() == Some("Lock advisory"))
            })?;
            // Now it does not wait for the standby any more.
            ensure!(observer.ask::<bool>(&format!("SELECT pg_cancel_backend({admin_pid})"))?);
            ensure!(resetting.join().ok().context("a session panicked")??, "nothing was reset");
            Ok(taking.join().ok().context("a session panicked")??)
        })?;
        // That was taken before, and is forgotten already.
        open.batch_execute("ROLLBACK")?;
    }
    drop(observer);
    ensure_left(&mut server, 7)
}

fn fails_to_commit(bed: &Bed) -> Result<()> {
    let mut server = bed.private().start()?;
    let (mut one, mut other) = (Database::new(&server, NAME)?.connect()?, connect(&server)?);
    Kind::Durable.create_all(&mut one, 10)?;
    one.batch_execute("CREATE TABLE seen (n int)")?;
    for limiter in ALGORITHMS {
        one.batch_execute(&format!("SELECT rl_enforce('{limiter}', 'key', 4)"))?;
        // Neither sees what the other writes: one of them has to fail.
        for session in [&mut one, &mut other] {
            session
                .batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM seen")?;
        }
        one.batch_execute(&format!("SELECT rl_reset('{limiter}', 'key')"))?;
        for session in [&mut one, &mut other] {
            session.batch_execute("INSERT INTO seen VALUES (1)")?;
        }
        other.batch_execute("COMMIT")?;
        ensure_code(&one.refused("COMMIT")?, "40001")?;
        other.batch_execute(&format!("SELECT rl_enforce('{limiter}', 'key', 1)"))?;
    }
    ensure_left(&mut server, 5)
}
