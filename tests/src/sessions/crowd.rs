//! Many sessions that do something at the same time.

use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use postgres::Client;

use crate::bed::Database;

/// Crowds take turns: the shared server has connections for three.
static TURN: Mutex<()> = Mutex::new(());

pub struct Crowd {
    sessions: Vec<Client>,
    _turn: MutexGuard<'static, ()>,
}

impl Crowd {
    /// Opens so many sessions.
    pub fn gather(database: &Database, size: usize) -> Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = (0..size).map(|_| database.connect()).collect::<Result<_>>()?;
        Ok(Self { sessions, _turn: turn })
    }

    /// Each session runs the query for its number, all from the same moment on; returns the numbers that they answer.
    pub fn ask(&mut self, query: impl Fn(usize) -> String + Sync) -> Result<Vec<i64>> {
        let start = Barrier::new(self.sessions.len());
        let run = |number: usize, session: &mut Client| -> Result<i64> {
            let query = query(number);
            let prepared = session.prepare(&query);
            start.wait();
            let answer = prepared.and_then(|statement| session.query_one(&statement, &[]));
            Ok(answer.with_context(|| query.clone())?.try_get(0)?)
        };
        std::thread::scope(|scope| {
            let run = &run;
            let sessions = self.sessions.iter_mut().enumerate();
            let threads: Vec<_> =
                sessions.map(|(n, session)| scope.spawn(move || run(n, session))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a session panicked")))
                .collect()
        })
    }

    /// The same for one query, and the sum of the answers.
    pub fn sum(&mut self, query: &str) -> Result<i64> {
        Ok(self.ask(|_| query.to_owned())?.iter().sum())
    }
}
