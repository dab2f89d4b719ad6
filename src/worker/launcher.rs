//! The launcher: sweeps shared memory, and begins a round of workers from time to time.

use std::ffi::c_int;

use pgrx::pg_sys::{self, Datum, Oid};
use ratelimit_core::{Micros, HOUR, MILLISECOND};

use super::known::Known;
use super::round::{Next, Outcome, Round};
use super::{databases, handle_signals, show};
use crate::shmem::{self, Header};
use crate::{config, house, saved, stats};

/// The next round begins after so long if this one did not remove everything. Who waits for a database to be left looks each 100 ms.
const BREAK: Micros = 250 * MILLISECOND;

/// Workers go where there is something to remove, and after so long everywhere.
const EVERYWHERE: Micros = HOUR;

/// The process of the launcher.
#[pgrx::pg_guard]
#[no_mangle]
pub unsafe extern "C-unwind" fn _rl_launcher(_nothing: Datum) {
    handle_signals();
    // SAFETY: called once in a background worker. Without a database only shared catalogs can be read.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let Some(header) = shmem::header() else { return };
    let mut launcher = Launcher::new(header);
    loop {
        let next = launcher.work();
        wait(next.map(|moment| moment.saturating_sub(launcher.now())));
    }
}

struct Launcher {
    header: &'static Header,
    purge: Timer,
    save: Timer,
    round: Option<Round>,
    known: Known,
    everywhere: Option<Micros>,
    /// The log says that there was no room for a worker, and there has been none since.
    complained: bool,
}

impl Launcher {
    fn new(header: &'static Header) -> Self {
        let now = header.clock.read().steady;
        Launcher {
            header,
            purge: Timer { interval: config::purge_interval, last: now, soon: false },
            save: Timer { interval: config::save_interval, last: now, soon: false },
            round: None,
            known: Known::default(),
            everywhere: None,
            complained: false,
        }
    }

    fn now(&self) -> Micros {
        self.header.clock.read().steady
    }

    /// Does what is due; says when something will be.
    fn work(&mut self) -> Option<Micros> {
        if self.round.is_none() && self.purge.is_due(self.now()) {
            show(Some(c"sweeping shared memory"));
            house::sweep(self.header);
            let databases = self.destinations();
            self.round = Some(Round::new(databases));
            show(None);
        }
        if self.save.is_due(self.now()) {
            self.save();
        }
        let next = self.advance().or_else(|| self.purge.due());
        next.into_iter().chain(self.save.due()).min()
    }

    fn save(&mut self) {
        show(Some(c"saving shared memory"));
        if let Err(error) = saved::save(self.header) {
            pgrx::log!("ratelimit could not save shared memory: {error}");
        }
        self.save.last = self.now();
        show(None);
    }

    /// Goes on with the round, if there is one; says when to look at it again.
    fn advance(&mut self) -> Option<Micros> {
        let now = self.now();
        let interval = config::purge_interval().unwrap_or(0);
        let visited = |database, progress| self.known.visited(database, progress, now, interval);
        match self.round.as_mut()?.advance(&self.header.board, now, visited) {
            Next::At(moment) => Some(moment),
            Next::Over(outcome) => {
                self.round = None;
                self.purge.last = self.now();
                self.purge.soon = outcome.more;
                self.report(outcome);
                None
            }
        }
    }

    fn report(&mut self, Outcome { rows, started, .. }: Outcome) {
        if started == Some(false) && !self.complained {
            pgrx::log!(
                "ratelimit could not start a worker to remove expired state; consider increasing max_worker_processes"
            );
        }
        self.complained = started.map_or(self.complained, |started| !started);
        house::report(rows);
    }

    /// Where the next round goes. Nothing can be removed on a standby.
    fn destinations(&mut self) -> Vec<Oid> {
        // SAFETY: looks at shared memory.
        if unsafe { pg_sys::RecoveryInProgress() } {
            return Vec::new();
        }
        let present = databases::list();
        let board = &self.header.board;
        self.known.add(board.noted());
        self.known.keep(&present);
        self.header.news(|news| news.keep(&present));
        let all = databases::all();
        stats::tidy_databases(self.header, |database| all.contains(&Oid::from(database)));
        let now = self.now();
        if board.was_crowded() || self.everywhere.is_none_or(|moment| moment <= now) {
            self.everywhere = Some(now.saturating_add(EVERYWHERE));
            return self.known.due(Some(present), now);
        }
        self.known.due(None, now)
    }
}

/// Something to do again and again.
struct Timer {
    /// How long after the last time; `None` is never.
    interval: fn() -> Option<Micros>,
    last: Micros,
    /// Or sooner, as it was not done.
    soon: bool,
}

impl Timer {
    fn due(&self) -> Option<Micros> {
        let longest = if self.soon { BREAK } else { Micros::MAX };
        (self.interval)().map(|interval| self.last.saturating_add(interval.min(longest)))
    }

    fn is_due(&self, now: Micros) -> bool {
        self.due().is_some_and(|moment| moment <= now)
    }
}

/// Waits for a signal, or so long; obeys what came.
fn wait(time: Option<Micros>) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    let (events, milliseconds) = match time {
        Some(time) => (events | pg_sys::WL_TIMEOUT, time.max(0) as u64 / 1_000 + 1),
        None => (events, 0),
    };
    let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
    // SAFETY: this process's own latch, flags and settings, outside of any transaction.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as c_int,
            milliseconds.into(),
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        // Looking for interrupts would end us with a FATAL in the log, at each stop of the server.
        if pg_sys::ProcDiePending != 0 {
            pg_sys::proc_exit(1);
        }
        pgrx::check_for_interrupts!();
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
