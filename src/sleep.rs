//! Sleeping until a moment of the steady clock, or until somebody sets this process's latch. Cancel, termination, a recovery conflict, a
//! lost client (where the server checks for that) and shutdown all end it at once, by an error.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};

use pgrx::pg_sys;
use ratelimit_core::{Micros, MILLISECOND};

use crate::clock::Clock;
use crate::compat;

/// What pg_stat_activity says that the process waits for.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Its turn under a rate.
    Rate,
    /// A concurrency slot.
    Slot,
}

impl Event {
    fn number(self) -> u32 {
        static NUMBERS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
        let (place, name) = match self {
            Event::Rate => (0, c"RateLimitAcquire"),
            Event::Slot => (1, c"RateLimitSlot"),
        };
        match NUMBERS[place].load(Ordering::Relaxed) {
            0 => {
                let number = compat::wait_event(name);
                NUMBERS[place].store(number, Ordering::Relaxed);
                number
            }
            number => number,
        }
    }
}

/// Sleeps until that moment, or for ever; less if the latch is set. Raises what interrupts it.
pub fn sleep(clock: &Clock, until: Option<Micros>, event: Event) {
    let left = until.map(|until| until.saturating_sub(clock.read().steady).max(0));
    let wake = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    // The server sleeps whole milliseconds: it must not be one too long.
    // The server sleeps whole milliseconds, and up to two more than it was told: so the end of a wait is slept in small pieces.
    let (wake, milliseconds) = match left {
        None => (wake, -1),
        Some(left) => (wake | pg_sys::WL_TIMEOUT, left / MILLISECOND - 2),
    };
    // SAFETY: this process's own latch, in a function that a session called.
    unsafe {
        if let Some(left) = left.filter(|left| *left < 3 * MILLISECOND) {
            pg_sys::pg_usleep(left.min(MILLISECOND));
        } else {
            let milliseconds = milliseconds.min(c_int::MAX.into());
            pg_sys::WaitLatch(pg_sys::MyLatch, wake as c_int, milliseconds, event.number());
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
    pgrx::check_for_interrupts!();
}
