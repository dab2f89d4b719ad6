//! A round: one worker after the other, each in one database.

use std::collections::VecDeque;

use pgrx::bgworkers::BgWorkerStartTime;
use pgrx::pg_sys::{self, Datum, Oid};
use ratelimit_core::{Micros, MILLISECOND, SECOND};

use super::board::{Board, Progress};
use super::{builder, databases};

/// A worker that has not done all comes back after so long. Who waits for the database to be left looks each 100 ms.
const BREAK: Micros = 250 * MILLISECOND;
/// When to look for a worker's end, should nobody say that it has ended.
const LOOK: Micros = SECOND;

/// What is left to do of a round.
pub struct Round {
    /// Where to go, and not before when.
    queue: VecDeque<(Oid, Micros)>,
    running: Option<(Oid, Worker)>,
    rows: u64,
    /// Whether the last worker could be started, if there was to be one.
    started: Option<bool>,
}

/// How a round goes on.
pub enum Next {
    /// Not before this moment, or a signal.
    At(Micros),
    /// It is over.
    Over {
        /// How many rows were removed.
        rows: u64,
        /// Whether the last worker could be started, if there was to be one.
        started: Option<bool>,
    },
}

impl Round {
    pub fn new(databases: Vec<Oid>) -> Self {
        let queue = databases.into_iter().map(|database| (database, Micros::MIN)).collect();
        Round { queue, running: None, rows: 0, started: None }
    }

    /// Does what can be done now. `found` is told of each database whether it has the extension.
    pub fn advance(
        &mut self,
        board: &Board,
        now: Micros,
        mut found: impl FnMut(Oid, bool),
    ) -> Next {
        if let Some((database, worker)) = self.running.take() {
            if worker.is_alive() {
                self.running = Some((database, worker));
                return Next::At(now.saturating_add(LOOK));
            }
            let (progress, rows) = board.report();
            self.rows += rows;
            if progress != Progress::None {
                found(database, progress != Progress::Absent);
            }
            if progress == Progress::More {
                self.queue.push_back((database, now.saturating_add(BREAK)));
            }
        }
        while let Some(&(database, at)) = self.queue.front() {
            if at > now {
                return Next::At(at);
            }
            self.queue.pop_front();
            if !databases::is_free(database) {
                continue;
            }
            board.begin();
            let Some(worker) = Worker::start(database) else {
                self.started = Some(false);
                self.queue.clear();
                break;
            };
            self.started = Some(true);
            self.running = Some((database, worker));
            return Next::At(now.saturating_add(LOOK));
        }
        Next::Over { rows: self.rows, started: self.started }
    }
}

/// A worker process.
struct Worker(*mut pg_sys::BackgroundWorkerHandle);

impl Worker {
    /// Starts one; `None` when there are as many background workers as there may be.
    fn start(database: Oid) -> Option<Self> {
        // SAFETY: a plain variable.
        let launcher = unsafe { pg_sys::MyProcPid };
        let name = format!("ratelimit worker for database {}", database.to_u32());
        let builder = builder(&name, "ratelimit worker", "_rl_visit")
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(None)
            .set_argument(Some(Datum::from(database)))
            .set_notify_pid(launcher);
        let mut worker = pg_sys::BackgroundWorker::from(&builder);
        let mut handle = std::ptr::null_mut();
        // SAFETY: the description is copied; the handle is allocated in memory that stays.
        let started = unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let started = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
            pg_sys::MemoryContextSwitchTo(outer);
            started
        };
        started.then(|| Worker(handle))
    }

    fn is_alive(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is that of a worker we started.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status != pg_sys::BgwHandleStatus::BGWH_STOPPED
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: allocated by `start`, and used by nobody else.
        unsafe { pg_sys::pfree(self.0.cast()) };
    }
}
