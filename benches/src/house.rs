//! House-keeping while durable limiters are measured: each second, by the extension's own worker where it has one, else by a session
//! that calls `rl_purge()`.

use std::fmt::{self, Display, Formatter};
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{json, Value};
use testbed::postgres::Client;
use testbed::Server;

use crate::lab;

/// The worker's setting.
const INTERVAL: &str = "ratelimit.purge_interval";

/// House-keeping that goes on until it is told to end.
pub enum House {
    Worker(Box<Client>),
    Session(Sender<()>, JoinHandle<Kept>),
}

/// What was done.
#[derive(Clone, Default)]
pub struct Kept {
    /// How often a session did it, and how long that took at most; the worker does not tell.
    by_session: Option<(u32, Duration)>,
    errors: Vec<String>,
}

impl House {
    pub fn keep(server: &Server) -> Result<House> {
        let mut client = server.connect()?;
        let known = "SELECT count(*) FROM pg_settings WHERE name = $1";
        if client.query_one(known, &[&INTERVAL])?.get::<_, i64>(0) > 0 {
            lab::set(&mut client, INTERVAL, Some("1s"))?;
            return Ok(House::Worker(Box::new(client)));
        }
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let (mut rounds, mut longest, mut errors) = (0, Duration::ZERO, Vec::new());
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let start = Instant::now();
                if let Err(error) = client.batch_execute("SELECT rl_purge()") {
                    errors.push(error.as_db_error().map_or(error.to_string(), ToString::to_string));
                }
                longest = longest.max(start.elapsed());
                rounds += 1;
            }
            Kept { by_session: Some((rounds, longest)), errors }
        });
        Ok(House::Session(stop, thread))
    }

    /// Ends it, and says what it did.
    pub fn end(self) -> Result<Kept> {
        match self {
            House::Worker(mut client) => {
                lab::set(&mut client, INTERVAL, None)?;
                let sql = "SELECT last_error FROM rl_info() WHERE last_error IS NOT NULL";
                let errors = client.query(sql, &[])?.iter().map(|row| row.get(0)).collect();
                Ok(Kept { by_session: None, errors })
            }
            House::Session(stop, thread) => {
                drop(stop);
                thread.join().ok().context("house-keeping has ended")
            }
        }
    }
}

/// Does what is left to do at once.
pub fn clean_up(client: &mut Client) -> Result<()> {
    // A round does nothing while another one goes on, and folds but one of the two ledgers.
    for _ in 0..5 {
        client.batch_execute("SELECT rl_purge()")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

impl Kept {
    pub fn to_json(&self) -> Value {
        json!({
            "by": if self.by_session.is_some() { "rl_purge()" } else { "the worker" },
            "rounds": self.by_session.map(|(rounds, _)| rounds),
            "longest_ms": self.by_session.map(|(_, longest)| longest.as_secs_f64() * 1e3),
            "errors": self.errors,
        })
    }
}

impl Display for Kept {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.by_session {
            Some((rounds, longest)) => {
                write!(
                    out,
                    "{rounds} calls of rl_purge(), the longest {} ms",
                    longest.as_millis()
                )?;
            }
            None => write!(out, "the worker, each second")?,
        }
        match self.errors.first() {
            Some(error) => write!(out, "; {} errors, the first: {error}", self.errors.len()),
            None => Ok(()),
        }
    }
}
