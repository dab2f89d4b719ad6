//! What it costs that many sessions wait for a slot: they are asleep.

use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Result};
use serde_json::{json, Value};
use testbed::postgres::Client;
use testbed::{Server, Tree};

use crate::cpu;
use crate::options::Options;

const WAITERS: usize = 500;
/// The waiters look for a deadlock from time to time: at first after a second, later each eight seconds.
const SETTLED: Duration = Duration::from_secs(16);

/// What was measured.
pub struct Asleep {
    /// How much of a processor all waiters together used.
    pub share: f64,
    /// How long it took to serve all of them, one after another.
    pub served: Duration,
}

/// On a server of its own, with room for so many.
pub fn measure(tree: &Tree, options: &Options) -> Result<Asleep> {
    let server = Server::builder(tree).setting("max_connections", "520").start()?;
    let mut holder = server.connect()?;
    holder.batch_execute("CREATE EXTENSION ratelimit")?;
    holder.batch_execute("SELECT rl_create_limiter('one', max_concurrent => 1)")?;
    holder.batch_execute("BEGIN; SELECT rl_try_slot('one', 'key')")?;
    eprintln!("==> {WAITERS} sessions wait for a slot");
    let mut sessions = (0..WAITERS).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
    let pids = sessions
        .iter_mut()
        .map(|session| {
            let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[])?.get(0);
            Ok(pid.unsigned_abs())
        })
        .collect::<Result<Vec<_>>>()?;

    std::thread::scope(|scope| {
        let wait = |mut session: Client| -> Result<bool> {
            Ok(session.query_one("SELECT rl_slot('one', 'key')", &[])?.get(0))
        };
        let threads: Vec<_> =
            sessions.into_iter().map(|session| scope.spawn(move || wait(session))).collect();
        let mut observer = server.connect()?;
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'RateLimitSlot'";
        let start = Instant::now();
        while observer.query_one(waiting, &[])?.get::<_, i64>(0) < WAITERS as i64 {
            ensure!(start.elapsed() < Duration::from_secs(60), "not all wait");
            std::thread::sleep(Duration::from_millis(100));
        }
        std::thread::sleep(if options.quick { Duration::from_secs(2) } else { SETTLED });

        let used = || pids.iter().map(|pid| cpu::of_process(*pid)).sum::<Result<Duration>>();
        let (start, before) = (Instant::now(), used()?);
        std::thread::sleep(Duration::from_secs(if options.quick { 4 } else { 16 }));
        let share = used()?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();

        let start = Instant::now();
        holder.batch_execute("COMMIT")?;
        for thread in threads {
            ensure!(thread.join().map_err(|_| anyhow!("a session panicked"))??, "one gave up");
        }
        Ok(Asleep { share, served: start.elapsed() })
    })
}

impl Asleep {
    pub fn to_json(&self) -> Value {
        json!({
            "waiters": WAITERS, "share_of_a_processor": self.share,
            "served_in_seconds": self.served.as_secs_f64(),
        })
    }
}
