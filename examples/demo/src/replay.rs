//! The replay: sessions that put entries through the trigger when these are due.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{anyhow, Result};
use testbed::postgres::types::ToSql;
use testbed::postgres::{Client, Statement};

use crate::log::{date, Entry, What};
use crate::plan::Plan;
use crate::scene::STRICT;
use crate::screen::{duration, number, tell, Screen};
use crate::stage::Stage;

/// The sessions share the limit and take turns in the order of time.
const SESSIONS: usize = 4;

/// The SQLSTATE of a refusal.
const TOO_MANY_REQUESTS: &str = "PT429";

pub struct Outcome {
    pub count: usize,
    pub limited: usize,
    pub elapsed: Duration,
    /// How late the latest entry came, in the replay's time.
    pub late: Duration,
    pub speed: u32,
}

#[derive(Default)]
struct Progress {
    next: AtomicUsize,
    allowed: AtomicUsize,
    limited: AtomicUsize,
    late: AtomicU64,
}

pub fn run(stage: &Stage, plan: &Plan, screen: &mut Screen) -> Result<Outcome> {
    let mut sessions: Vec<_> =
        (0..SESSIONS).map(|_| Session::open(stage, &plan.entries[0])).collect::<Result<_>>()?;
    // What they did to warm up is not part of the replay.
    sessions[0].client.batch_execute("SELECT rl_stat_reset()")?;
    let progress = &Progress::default();
    let start = Instant::now() + Duration::from_millis(20);
    let mut end = start;
    let count = plan.entries.len();
    std::thread::scope(|scope| {
        let workers: Vec<_> = sessions
            .into_iter()
            .map(|mut session| scope.spawn(move || work(&mut session, plan, start, progress)))
            .collect();
        let mut shown = 0;
        while !workers.iter().all(|worker| worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
            let done = progress.next.load(Relaxed).min(count);
            // Without a terminal, a line for each quarter is enough.
            let quarter = (4 * done) / count;
            if screen.terminal || quarter > shown && quarter < 4 {
                shown = quarter;
                progress.show(plan, start, screen)?;
            }
        }
        for worker in workers {
            let done =
                worker.join().map_err(|_| anyhow!("a session of the replay has failed"))??;
            end = end.max(done);
        }
        progress.show(plan, start, screen)?;
        screen.end_progress()
    })?;
    Ok(Outcome {
        count,
        limited: progress.limited.load(Relaxed),
        elapsed: end - start,
        late: Duration::from_micros(progress.late.load(Relaxed)),
        speed: plan.speed,
    })
}

impl Outcome {
    pub fn describe(&self, screen: &mut Screen) -> Result<()> {
        let rate = self.count as f64 / self.elapsed.as_secs_f64().max(1e-6);
        tell!(
            screen,
            "{SESSIONS} sessions sent {} INSERTs in {}, {} a second; the trigger refused {} with SQLSTATE {}. \
             Before each, they also asked rl_check('{STRICT}').",
            number(self.count),
            duration(self.elapsed),
            number(rate as usize),
            number(self.limited),
            TOO_MANY_REQUESTS
        )
    }
}

impl Progress {
    fn show(&self, plan: &Plan, start: Instant, screen: &mut Screen) -> Result<()> {
        let count = plan.entries.len();
        let done = self.next.load(Relaxed).min(count);
        let allowed = self.allowed.load(Relaxed);
        let limited = self.limited.load(Relaxed);
        let seconds = Instant::now().saturating_duration_since(start).as_secs_f64().max(0.001);
        let at = date::show(plan.entries[done.clamp(1, count) - 1].at);
        let bar = screen.bar(16, done - limited.min(done), limited, count);
        screen.progress(&format!(
            "{bar} {:3} %  {at}  {} allowed, {} limited, {}/s",
            100 * done / count,
            number(allowed),
            number(limited),
            number((done as f64 / seconds) as usize)
        ))
    }
}

struct Session {
    client: Client,
    insert: Statement,
    limited: Statement,
    verdict: Statement,
}

impl Session {
    fn open(stage: &Stage, example: &Entry) -> Result<Self> {
        let mut client = stage.server.connect()?;
        let insert = client.prepare(&stage.kind.insert())?;
        let limited = client.prepare("INSERT INTO limited VALUES ($1, $2, $3)")?;
        let verdict = client.prepare(&format!(
            "INSERT INTO verdicts SELECT $1, reason FROM rl_check('{STRICT}', $1)"
        ))?;
        let mut session = Self { client, insert, limited, verdict };
        // The first statements of a session are slow: it reads the catalogs.
        session.client.batch_execute("BEGIN")?;
        session.insert(example, "warming up")?;
        session.client.batch_execute("ROLLBACK; BEGIN")?;
        session.limit(example)?;
        session.judge("warming up")?;
        session.client.batch_execute("ROLLBACK")?;
        Ok(session)
    }

    /// Whether the trigger let the entry through.
    fn insert(&mut self, entry: &Entry, client: &str) -> Result<bool> {
        let at = UNIX_EPOCH + Duration::from_micros(entry.at.try_into()?);
        let row: &[&(dyn ToSql + Sync)] = match &entry.what {
            What::Request { method, path, status, bytes, agent } => {
                &[&at, &client, method, path, status, bytes, agent]
            }
            What::FailedLogin { account } => &[&at, &client, account],
        };
        match self.client.execute(&self.insert, row) {
            Ok(_) => Ok(true),
            Err(error) if error.code().is_some_and(|c| c.code() == TOO_MANY_REQUESTS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Notes what the limiter that bans has to say.
    fn judge(&mut self, client: &str) -> Result<()> {
        self.client.execute(&self.verdict, &[&client])?;
        Ok(())
    }

    fn limit(&mut self, entry: &Entry) -> Result<()> {
        let at = UNIX_EPOCH + Duration::from_micros(entry.at.try_into()?);
        let (What::Request { path: what, .. } | What::FailedLogin { account: what }) = &entry.what;
        self.client.execute(&self.limited, &[&at, &entry.client, what])?;
        Ok(())
    }
}

/// Takes turns until all is done, and says when that was.
fn work(
    session: &mut Session,
    plan: &Plan,
    start: Instant,
    progress: &Progress,
) -> Result<Instant> {
    loop {
        let n = progress.next.fetch_add(1, Relaxed);
        let Some(entry) = plan.entries.get(n) else {
            return Ok(Instant::now());
        };
        let due = start + plan.due[n];
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let late = Instant::now().saturating_duration_since(due).as_micros();
        progress.late.fetch_max(late.try_into().unwrap_or(u64::MAX), Relaxed);
        session.judge(&entry.client)?;
        if session.insert(entry, &entry.client)? {
            progress.allowed.fetch_add(1, Relaxed);
        } else {
            progress.limited.fetch_add(1, Relaxed);
            session.limit(entry)?;
        }
    }
}
