//! Slots behind a pooler that gives each transaction whatever connection is free.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use postgres::{Client, SimpleQueryMessage};
use testbed::{Pooler, Server};

use super::ask::Ask;
use super::Test;
use crate::bed::{Bed, Database};

/// Those that need pgbouncer.
pub const TESTS: &[Test] = &[
    ("behind_a_pooler_slots_of_transactions_hold", slots_of_transactions),
    ("behind_a_pooler_leases_hold", leases),
    ("behind_a_pooler_slots_of_sessions_are_the_connections", slots_of_sessions),
];

const NAME: &str = "pooled";

/// A server and a pooler with so many connections to it.
fn pooled(bed: &Bed, connections: u32) -> Result<(Server, Pooler)> {
    let server = bed.private().start()?;
    let mut session = Database::new(&server, NAME)?.connect()?;
    session.batch_execute("SELECT rl_create_limiter('export', max_concurrent => 2)")?;
    let program = Pooler::program().context("there is no pgbouncer")?;
    let pooler = Pooler::start(&server, &program, connections)?;
    Ok((server, pooler))
}

/// The only value that a query returns. A transaction pooler does not know prepared statements.
fn value(client: &mut Client, query: &str) -> Result<Option<String>> {
    let messages = client.simple_query(query).with_context(|| query.to_owned())?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.context("no row")?.get(0).map(str::to_owned))
}

fn is(client: &mut Client, query: &str) -> Result<bool> {
    Ok(value(client, query)?.as_deref() == Some("t"))
}

fn slots_of_transactions(bed: &Bed) -> Result<()> {
    let (server, pooler) = pooled(bed, 5)?;
    let (holders, most) = (AtomicI32::new(0), AtomicI32::new(0));
    // More clients than connections, and more connections than slots.
    let client = |number: usize| -> Result<()> {
        let mut client = pooler.connect(NAME)?;
        for n in 0..20 {
            client.simple_query("BEGIN")?;
            ensure!(is(&mut client, "SELECT rl_slot('export', 'key')")?);
            most.fetch_max(holders.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
            holders.fetch_sub(1, Ordering::SeqCst);
            // One that goes away in the middle has its transaction rolled back.
            if number == 0 && n == 10 {
                client = pooler.connect(NAME)?;
                continue;
            }
            client.simple_query(if n % 2 == 0 { "COMMIT" } else { "ROLLBACK" })?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let client = &client;
        let threads: Vec<_> = (0..12).map(|n| scope.spawn(move || client(n))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    let most = most.load(Ordering::SeqCst);
    ensure!(most == 2, "at most {most} held one of 2 slots at a time");
    let mut session = server.connect_to(NAME, "postgres")?;
    ensure!(session.left("export", "key")? == 2, "a slot was not given back");
    Ok(())
}

fn leases(bed: &Bed) -> Result<()> {
    let (_server, pooler) = pooled(bed, 3)?;
    let lease = "SELECT rl_try_lease('export', 'key', '1 hour')";
    let mut taker = pooler.connect(NAME)?;
    let one = value(&mut taker, lease)?.context("no lease")?;
    let two = value(&mut taker, lease)?.context("no lease")?;
    ensure!(value(&mut taker, lease)?.is_none(), "a third of 2 slots");
    drop(taker);

    // Another client, which occupies another connection.
    let (mut busy, mut other) = (pooler.connect(NAME)?, pooler.connect(NAME)?);
    busy.simple_query("BEGIN; SELECT 1")?;
    ensure!(value(&mut other, lease)?.is_none(), "a lease ended with its client");
    ensure!(is(&mut other, &format!("SELECT rl_renew_lease('{one}', '2 hours')"))?);
    ensure!(is(&mut other, &format!("SELECT rl_release_lease('{one}')"))?);
    ensure!(!is(&mut other, &format!("SELECT rl_release_lease('{one}')"))?);
    ensure!(is(&mut busy, &format!("SELECT rl_release_lease('{two}')"))?);
    ensure!(value(&mut other, lease)?.is_some(), "a lease was not given back");
    Ok(())
}

/// They belong to the pooler's connection, and not to the client: whoever gets the connection can release them, and nobody else.
fn slots_of_sessions(bed: &Bed) -> Result<()> {
    let (server, pooler) = pooled(bed, 2)?;
    let mut session = server.connect_to(NAME, "postgres")?;
    let mut taker = pooler.connect(NAME)?;
    // In a transaction, to know the connection.
    taker.simple_query("BEGIN")?;
    ensure!(is(&mut taker, "SELECT rl_try_session_slot('export', 'key')")?);
    let pid = value(&mut taker, "SELECT pg_backend_pid()")?;
    taker.simple_query("COMMIT")?;

    // While another client has that connection, who took the slot cannot release it.
    let mut other = pooler.connect(NAME)?;
    other.simple_query("BEGIN")?;
    ensure!(value(&mut other, "SELECT pg_backend_pid()")? == pid, "another connection");
    let release = "SELECT rl_release_session_slot('export', 'key')";
    ensure!(!is(&mut taker, release)?, "it was released through another connection");
    // It outlives the client.
    taker.close()?;
    ensure!(session.left("export", "key")? == 1, "it went with the client");
    ensure!(is(&mut other, release)?, "its connection cannot release it");
    other.simple_query("COMMIT")?;
    ensure!(session.left("export", "key")? == 2);
    Ok(())
}
