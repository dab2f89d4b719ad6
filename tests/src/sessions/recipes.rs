//! The parts of recipes that need several sessions. They run the SQL of `docs/recipes`, block by block.

use std::sync::Barrier;

use anyhow::{bail, ensure, Result};
use postgres::{Client, SimpleQueryMessage};

use super::ask::{Ask, AGE};
use super::documents::recipe;
use super::Test;
use crate::bed::{Bed, Database};

pub const TESTS: &[Test] = &[
    ("recipe_tenants_share_slots", tenants_share_slots),
    ("recipe_webhooks_are_neither_lost_nor_sent_twice", webhooks),
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
