//! A round: one worker after the other, each in one database.

use std::collections::VecDeque;

use pgrx::bgworkers::BgWorkerStartTime;
use pgrx::pg_sys::{self, Datum, Oid};
use ratelimit_core::{Micros, SECOND};

use super::board::{Board, Progress};
use super::{builder, databases};

/// When to look for a worker's end, should nobody say that it has ended.
const LOOK: Micros = SECOND;

/// What is left to do of a round.
pub struct Round {
    /// Where to go.
    queue: VecDeque<Oid>,
    running: Option<(Oid, Worker)>,
    outcome: Outcome,
}

/// What came of a round.
#[derive(Clone, Copy, Default)]
pub struct Outcome {
    /// How many rows were removed.
    pub rows: u64,
    /// Whether a worker left before it was done.
    pub more: bool,
    /// Whether the last worker could be started, if there was to be one.
    pub started: Option<bool>,
}

/// How a round goes on.
pub enum Next {
    /// Not before this moment, or a signal.
    At(Micros),
    /// It is over.
    Over(Outcome),
}

impl Round {
    pub fn new(databases: Vec<Oid>) -> Self {
        Round { queue: databases.into(), running: None, outcome: Outcome::default() }
    }

    /// Does what can be done now. `visited` is told of each database how far the worker got.
    pub fn advance(
        &mut self,
        board: &Board,
        now: Micros,
        mut visited: impl FnMut(Oid, Progress),
    ) -> Next {
        if let Some((database, worker)) = self.running.take() {
            if worker.is_alive() {
                self.running = Some((database, worker));
                return Next::At(now.saturating_add(LOOK));
            }
            let (progress, rows) = board.report();
            self.outcome.rows += rows;
            self.outcome.more |= progress == Progress::More;
            visited(database, progress);
        }
        while let Some(database) = self.queue.pop_front() {
            if !databases::is_free(database) {
                continue;
            }
            board.begin();
            let Some(worker) = Worker::start(database) else {
                self.outcome.started = Some(false);
                self.queue.clear();
                break;
            };
            self.outcome.started = Some(true);
            self.running = Some((database, worker));
            return Next::At(now.saturating_add(LOOK));
        }
        Next::Over(self.outcome)
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
