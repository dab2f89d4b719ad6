//! The parts of recipes that need several sessions. They run the SQL of `docs/recipes`, block by block.

use std::sync::Barrier;

use anyhow::{bail, ensure, Context, Result};
use postgres::{Client, SimpleQueryMessage};

use super::ask::{eventually, Ask, AGE};
use super::documents::recipe;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("recipe_tenants_share_slots", tenants_share_slots),
    ("recipe_webhooks_are_neither_lost_nor_sent_twice", webhooks),
    ("recipe_twenty_workers_share_an_api", outbound_api),
    ("recipe_behind_a_transaction_pooler", pgbouncer),
];

fn tenants_share_slots(bed: &Bed) -> Result<()> {
    let recipe = recipe("tenants")?;
    let database = bed.database("recipe_tenants")?;
    let mut observer = database.connect()?;
    observer.batch_execute(recipe.block("setup")?)?;
    let mut sessions = Vec::new();
    for tenant in ["acme", "globex", "initech"] {
        for _ in 0..3 {
            let mut session = database.connect()?;
            session.batch_execute(&recipe.block("job")?.replace("acme", tenant))?;
            sessions.push(session);
        }
    }
    let held: String = observer.ask(
        "SELECT string_agg(key || ' ' || n, ', ' ORDER BY key)
           FROM (SELECT key, count(*) AS n FROM rl_slots WHERE limiter = 'tenant_jobs' GROUP BY key) AS held",
    )?;
    ensure!(held == "acme 2, globex 2, initech 1", "{held}");
    drop(sessions);
    Ok(())
}

fn webhooks(bed: &Bed) -> Result<()> {
    const WORKERS: usize = 6;
    let recipe = recipe("webhooks")?;
    let database = bed.database("recipe_webhooks")?;
    let mut observer = database.connect()?;
    observer.batch_execute(recipe.block("setup")?)?;
    // Nothing comes back during the test.
    observer.batch_execute(&format!(
        "UPDATE rl_rules SET period = '{AGE}';
         INSERT INTO deliveries (endpoint, payload)
         SELECT 'endpoint ' || n % 4, '{{}}' FROM generate_series(1, 400) AS n"
    ))?;
    let mut workers = sessions(&database, WORKERS)?;
    let claimed = at_once(&mut workers, |number, worker| {
        worker.batch_execute(recipe.block("claim")?)?;
        let mut ids = Vec::new();
        for _ in 0..10 {
            let messages = worker.simple_query(&format!("EXECUTE claim ('worker {number}')"))?;
            ids.extend(messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            }));
        }
        Ok(ids)
    })?;
    let mut claimed = claimed.concat();
    let all = claimed.len();
    claimed.sort();
    claimed.dedup();
    ensure!(claimed.len() == all, "some were sent twice");
    let taken: String = observer.ask(
        "SELECT string_agg(endpoint || ': ' || taken || ' of ' || total, ', ' ORDER BY endpoint)
           FROM (SELECT endpoint, count(taken_by) AS taken, count(*) AS total FROM deliveries GROUP BY endpoint) AS each",
    )?;
    let expected = (0..4).map(|n| format!("endpoint {n}: 5 of 100")).collect::<Vec<_>>().join(", ");
    ensure!(taken == expected, "{taken}");
    ensure!(all == 20, "{all} were sent");
    Ok(())
}

fn outbound_api(bed: &Bed) -> Result<()> {
    const WORKERS: usize = 20;
    let recipe = recipe("outbound-api")?;
    let database = bed.database("recipe_outbound_api")?;
    let mut observer = database.connect()?;
    observer.batch_execute(recipe.block("setup")?)?;
    observer.batch_execute(
        "CREATE TABLE calls (worker int, began timestamptz DEFAULT clock_timestamp(), ended timestamptz);
         CREATE TABLE start AS SELECT clock_timestamp() AS at",
    )?;
    let mut workers = sessions(&database, WORKERS)?;
    at_once(&mut workers, |number, worker| {
        worker.batch_execute(recipe.block("lease")?)?;
        ensure!(worker.ask::<bool>("SELECT token IS NOT NULL FROM held")?);
        ensure!(worker.ask::<bool>(recipe.block("turn")?)?);
        worker.batch_execute(&format!("INSERT INTO calls VALUES ({number})"))?;
        let ended = "UPDATE calls SET ended = clock_timestamp() WHERE worker";
        worker.batch_execute(&format!("{ended} = {number}"))?;
        ensure!(worker.ask::<bool>(recipe.block("done")?)?);
        Ok(())
    })?;
    let early: i64 = observer.ask(
        "SELECT count(*) FROM (SELECT began, row_number() OVER (ORDER BY began) AS n FROM calls) AS calls, start
          WHERE began < start.at + (n - 1) * interval '50 ms'",
    )?;
    ensure!(early == 0, "{early} calls were early");
    let open: i64 = observer.ask(
        "SELECT max((SELECT count(*) FROM calls AS b WHERE b.began <= a.began AND a.began < b.ended)) FROM calls AS a",
    )?;
    ensure!((1..=3).contains(&open), "{open} calls were open at a time");
    // Again, as clients that do the sleeping: each has a turn of its own.
    let (reserve, _) = recipe.block("reserve")?.split_once(';').context("no statement")?;
    let reserve = reserve.replace("reserved, wait <= '1 s'", "clock_timestamp() + wait AS at");
    observer.batch_execute(
        "CREATE TABLE turns (at timestamptz NOT NULL); UPDATE start SET at = clock_timestamp()",
    )?;
    at_once(&mut workers, |_, worker| {
        Ok(worker.batch_execute(&format!("INSERT INTO turns {reserve}"))?)
    })?;
    let early: i64 = observer.ask(
        "SELECT count(*) FROM (SELECT at, row_number() OVER (ORDER BY at) AS n FROM turns) AS turns, start
          WHERE turns.at < start.at + (n - 1) * interval '50 ms'",
    )?;
    ensure!(early == 0, "{early} turns were early");
    Ok(())
}

/// A pooler gives each transaction of a client another server connection, here one of two.
fn pgbouncer(bed: &Bed) -> Result<()> {
    let recipe = recipe("pgbouncer")?;
    let database = bed.database("recipe_pgbouncer")?;
    let (mut one, mut other) = (database.connect()?, database.connect()?);
    one.batch_execute(recipe.block("setup")?)?;
    one.batch_execute(&format!("UPDATE rl_rules SET period = '{AGE}'"))?;
    let slots = "SELECT count(*) FROM rl_slots";

    for n in 0..6 {
        let session = if n % 2 == 0 { &mut one } else { &mut other };
        ensure!(session.ask::<bool>(recipe.block("rate")?)? == (n < 5), "call {n}");
    }
    one.batch_execute(recipe.block("transaction")?)?;
    ensure!(one.ask::<i64>(slots)? == 0, "a transaction slot outlives its transaction");

    one.batch_execute(recipe.block("lease")?)?;
    ensure!(other.ask::<i64>(slots)? == 1, "there is no lease");
    ensure!(other.ask::<bool>(recipe.block("release")?)?, "another connection cannot free it");

    // What the recipe warns of.
    ensure!(one.ask::<bool>(recipe.block("session")?)?);
    ensure!(!other.ask::<bool>(recipe.block("lost")?)?, "another session could free it");
    ensure!(other.ask::<i64>(slots)? == 1, "it was not lost");
    drop(one);
    eventually("the slot ends with its connection", || Ok(other.ask::<i64>(slots)? == 0))
}

fn sessions(database: &Database, count: usize) -> Result<Vec<Client>> {
    (0..count).map(|_| database.connect()).collect()
}

/// Does the same in all sessions, and returns their answers in order.
fn at_once<T: Send>(
    sessions: &mut [Client],
    task: impl Fn(usize, &mut Client) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let start = Barrier::new(sessions.len());
    std::thread::scope(|scope| {
        let (start, task) = (&start, &task);
        let threads: Vec<_> = sessions
            .iter_mut()
            .enumerate()
            .map(|(n, session)| {
                scope.spawn(move || {
                    start.wait();
                    task(n, session)
                })
            })
            .collect();
        let answers = threads.into_iter().map(|thread| thread.join());
        answers.map(|answer| answer.unwrap_or_else(|_| bail!("a session panicked"))).collect()
    })
}
