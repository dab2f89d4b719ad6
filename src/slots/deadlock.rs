//! Deadlocks through slots. Who waits for a slot sleeps outside of the lock manager, whose own detector does not see that: so he looks
//! himself, from time to time.

use pgrx::{direct_function_call, pg_sys, IntoDatum};
use ratelimit_core::slots::{Wait, Waits, Wanted};
use ratelimit_core::{Micros, MILLISECOND};

use super::lock;
use crate::durable::Scratch;
use crate::error::{Error, Result};

/// When a waiter looks for a deadlock.
pub struct Detector {
    due: Micros,
    pause: Micros,
    /// One for all looks: a wait may be long.
    scratch: Option<Scratch>,
}

/// The pauses grow up to so many times `deadlock_timeout`.
const LONGEST: Micros = 8;

impl Detector {
    /// It waits from now on.
    pub fn new(now: Micros) -> Self {
        let pause = deadlock_timeout();
        Detector { due: now.saturating_add(pause), pause, scratch: None }
    }

    /// When it is time to look.
    pub fn due(&self) -> Micros {
        self.due
    }

    /// Looks, if it is time: `waits` begins a look, and answers what a process waits for where that is a slot. If this process is in a
    /// deadlock it gives up: whoever looks after it does not find the same once more.
    pub fn look<F>(
        &mut self,
        now: Micros,
        waits: impl Fn() -> F,
        give_up: impl FnOnce(),
    ) -> Result<()>
    where
        F: Fn(i32) -> Option<Wait>,
    {
        if now < self.due {
            return Ok(());
        }
        let scratch = self.scratch.get_or_insert_with(Scratch::new);
        let found = lock::alone(|| {
            let found = scratch.run(|| find(waits));
            if found.is_some() {
                give_up();
            }
            found
        });
        if found.is_some() {
            self.pause = (2 * self.pause).min(LONGEST * deadlock_timeout());
        }
        self.due = now.saturating_add(self.pause);
        found.flatten().map_or(Ok(()), |cycle| Err(Error::deadlock(&cycle)))
    }
}

fn deadlock_timeout() -> Micros {
    // SAFETY: a plain variable of the server.
    Micros::from(unsafe { pg_sys::DeadlockTimeout }) * MILLISECOND
}

/// The deadlock that this process is in. Processes go on while they are looked at; but if each still waits as it did the first time,
/// they all have waited at the moment in between.
fn find<F>(waits: impl Fn() -> F) -> Option<Vec<(i32, Wanted)>>
where
    F: Fn(i32) -> Option<Wait>,
{
    // SAFETY: a plain variable.
    let me = unsafe { pg_sys::MyProcPid };
    let collect = || {
        let slot = waits();
        Waits::collect(me, |pid| slot(pid).or_else(|| lock_wait(pid)))
    };
    let first = collect();
    first.deadlock(me).filter(|_| collect() == first)
}

/// The lock that a process waits for.
fn lock_wait(pid: i32) -> Option<Wait> {
    // SAFETY: looks up a process. Its entry is never freed, and may be another's by now: then the wait is another, too.
    let since = unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if process.is_null() {
            return None;
        }
        (&raw const (*process).waitStart.value).read_volatile().cast_signed()
    };
    // SAFETY: a function of the server that takes a number and answers an array of them, without nulls.
    let mut blockers: Vec<i32> =
        unsafe { direct_function_call(pg_sys::pg_blocking_pids, &[pid.into_datum()]) }?;
    blockers.sort_unstable();
    blockers.dedup();
    Some(Wait { wanted: Wanted::Lock, blockers, since }).filter(|wait| !wait.blockers.is_empty())
}
