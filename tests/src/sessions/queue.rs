//! Sessions that wait for a slot, each in a thread of its own.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};
use postgres::types::FromSqlOwned;
use postgres::Client;

use super::ask::{eventually, Ask};

/// A session whose query has not been answered yet.
pub struct Waiting<T> {
    pub pid: i32,
    thread: JoinHandle<(Client, Result<T, postgres::Error>, Instant)>,
}

impl<T: FromSqlOwned + Send + 'static> Waiting<T> {
    /// Asks for the only value that a query returns.
    pub fn start(mut session: Client, query: &str) -> Result<Self> {
        let pid = session.pid()?;
        let query = query.to_owned();
        let thread = std::thread::spawn(move || {
            let answer = session.query_one(&query, &[]).and_then(|row| row.try_get(0));
            let end = Instant::now();
            (session, answer, end)
        });
        Ok(Waiting { pid, thread })
    }

    /// The session with its answer, when there is one.
    pub fn answer(self) -> Result<(Client, T)> {
        let (session, answer, _) = self.join()?;
        Ok((session, answer.context("no answer")?))
    }

    /// How the wait failed: the SQLSTATE, if the session heard of one before it was lost, and how long after `start`.
    pub fn failure(self, start: Instant) -> Result<(Option<String>, Duration)> {
        let (_, answer, end) = self.join()?;
        let error = answer.err().context("there was an answer")?;
        let code = error.code().map(|code| code.code().to_owned());
        Ok((code, end.saturating_duration_since(start)))
    }

    /// Checks that the wait failed with this SQLSTATE.
    pub fn ensure_refused(self, code: &str) -> Result<()> {
        let (found, _) = self.failure(Instant::now())?;
        ensure!(found.as_deref() == Some(code), "{found:?} instead of {code}");
        Ok(())
    }

    fn join(self) -> Result<(Client, Result<T, postgres::Error>, Instant)> {
        self.thread.join().map_err(|_| anyhow!("the session panicked"))
    }
}

/// Waits until so many sessions of this database are in a queue for slots.
pub fn queued(observer: &mut Client, sessions: i64) -> Result<()> {
    // Before PostgreSQL 17 libraries cannot name what they wait for.
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event IN ('RateLimitSlot', 'Extension')";
    eventually(&format!("{sessions} sessions wait"), || {
        Ok(observer.ask::<i64>(waiting)? == sessions)
    })
}
