//! How punctual those are who wait for a turn: a hundred sessions in a queue, of which one is due each millisecond.

use anyhow::{anyhow, ensure, Context, Result};
use serde_json::{json, Value};
use testbed::postgres::Client;
use testbed::{Server, Tree};

use crate::options::Options;
use crate::stats::Spread;

const WAITERS: u32 = 100;
/// So long nobody is due: time for all to queue up.
const START_MS: u32 = 2_000;

/// All that was measured, in milliseconds after each one's due time.
pub struct Waiters {
    /// Of each round the one who was latest.
    pub latest: Spread,
    /// Of each round the one who was earliest.
    pub earliest: Spread,
    pub all: Spread,
}

/// On a server of its own, where nobody else is at work.
pub fn measure(tree: &Tree, options: &Options) -> Result<Waiters> {
    let server = Server::builder(tree).setting("max_connections", "120").start()?;
    let mut client = server.connect()?;
    client.batch_execute("CREATE EXTENSION ratelimit")?;
    client.batch_execute("SELECT rl_create_limiter('turns', '1000 per second burst 1')")?;
    let (mut latest, mut earliest, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.waiter_rounds {
        eprintln!("==> waiters: round {round} of {}", options.waiter_rounds);
        let late = one_round(&server, &mut client)?;
        let spread = Spread::of(late.iter().copied());
        latest.push(spread.max);
        earliest.push(spread.min);
        all.extend(late);
    }
    Ok(Waiters { latest: Spread::of(latest), earliest: Spread::of(earliest), all: Spread::of(all) })
}

/// How late each was.
fn one_round(server: &Server, client: &mut Client) -> Result<Vec<f64>> {
    let mut sessions = (0..WAITERS).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
    for session in &mut sessions {
        // What a session does for the first time takes longer.
        session.batch_execute("SELECT rl_acquire('turns', 'warm'), clock_timestamp()")?;
    }
    client.batch_execute("SELECT rl_reset('turns', 'key')")?;
    client.batch_execute(&format!("SELECT rl_penalize('turns', 'key', {START_MS})"))?;
    let due = "SELECT extract(epoch FROM clock_timestamp() + retry_after)::float8 * 1000 FROM rl_peek('turns', 'key')";
    let due: f64 = client.query_one(due, &[])?.get(0);
    let wait = "SELECT rl_acquire('turns', 'key') IS NULL, extract(epoch FROM clock_timestamp())::float8 * 1000";
    let mut granted = std::thread::scope(|scope| {
        let wait =
            |mut session: Client| -> Result<f64> { Ok(session.query_one(wait, &[])?.get(1)) };
        let threads: Vec<_> =
            sessions.into_iter().map(|session| scope.spawn(move || wait(session))).collect();
        let granted = threads.into_iter().map(|thread| thread.join());
        granted
            .map(|one| one.map_err(|_| anyhow!("a session panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    granted.sort_by(f64::total_cmp);
    let first = granted.first().context("no waiters")?;
    ensure!(*first > due - 1_000.0, "the waiters did not wait");
    Ok((0..).zip(granted).map(|(place, at)| at - due - f64::from(place)).collect())
}

impl Waiters {
    pub fn to_json(&self) -> Value {
        json!({
            "waiters": WAITERS, "latest_ms": self.latest.to_json(), "earliest_ms": self.earliest.to_json(),
            "all_ms": self.all.to_json(),
        })
    }
}
