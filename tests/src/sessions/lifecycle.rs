//! The extension through the life of a server.

use anyhow::{ensure, Result};
use testbed::Stop;

use super::ask::{Ask, AGE};
use super::kinds::Kind;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("create_and_drop", create_and_drop),
    ("survives_restart", survives_restart),
    ("survives_crash_of_a_session", survives_crash_of_a_session),
    ("dropped_databases_leave_room_for_others", dropped_databases_leave_room),
];

fn is_installed(database: &Database) -> Result<bool> {
    let query = "SELECT count(*) FROM pg_extension WHERE extname = 'ratelimit'";
    Ok(database.connect()?.query_one(query, &[])?.get::<_, i64>(0) == 1)
}

fn create_and_drop(bed: &Bed) -> Result<()> {
    let database = bed.database("create_and_drop")?;
    database.connect()?.batch_execute("DROP EXTENSION ratelimit")?;
    ensure!(!is_installed(&database)?, "the extension is still there");
    database.connect()?.batch_execute("CREATE EXTENSION ratelimit")?;
    ensure!(is_installed(&database)?, "the extension did not come back");
    Ok(())
}

fn survives_restart(bed: &Bed) -> Result<()> {
    let mut server = bed.private().start()?;
    Database::new(&server, "lifecycle")?;
    for mode in [Stop::Fast, Stop::Immediate] {
        server.restart(mode)?;
        let mut client = server.connect_to("lifecycle", "postgres")?;
        client.batch_execute("DROP EXTENSION ratelimit; CREATE EXTENSION ratelimit")?;
    }
    Ok(())
}

fn survives_crash_of_a_session(bed: &Bed) -> Result<()> {
    let mut server = bed.private().start()?;
    let mut client = server.connect()?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    server.crash(pid)?;
    ensure!(client.batch_execute("SELECT 1").is_err(), "the session is still there");
    Database::new(&server, "lifecycle")?;
    Ok(())
}

fn dropped_databases_leave_room(bed: &Bed) -> Result<()> {
    let server = bed.private().setting("ratelimit.purge_interval", "0").start()?;
    let mut session = Database::new(&server, "model")?.connect()?;
    Kind::Durable.create(&mut session, "api", &format!("10 per {AGE}"), "token_bucket")?;
    session.close()?;
    let mut admin = server.connect()?;
    // One more than there is room for at a time.
    for n in 0..=256u32 {
        admin.batch_execute(&format!("CREATE DATABASE one_{n} TEMPLATE model"))?;
        let mut session = server.connect_to(&format!("one_{n}"), "postgres")?;
        ensure!(session.takes("api", "key")?, "one_{n} found what another database counted");
        session.close()?;
        // The last session in the one before has ended by now, and DROP DATABASE need not wait for it.
        if let Some(before) = n.checked_sub(1) {
            admin.batch_execute(&format!("DROP DATABASE one_{before}"))?;
        }
    }
    Ok(())
}
