//! What time it is: a steady clock that starts at the wall clock's time, and how far the wall clock has been moved since.

use std::sync::atomic::{AtomicI64, Ordering};

use pgrx::pg_sys;
use ratelimit_core::{Micros, Now, SECOND};

/// Counts while the machine sleeps, too, where the system has such a clock.
#[cfg(target_os = "linux")]
const STEADY: libc::clockid_t = libc::CLOCK_BOOTTIME;
#[cfg(not(target_os = "linux"))]
const STEADY: libc::clockid_t = libc::CLOCK_MONOTONIC;

#[inline(always)]
fn read(clock: libc::clockid_t) -> Micros {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into a timespec of ours; both clocks exist on every system that PostgreSQL supports.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec * SECOND + time.tv_nsec / 1_000
}

/// Where the steady time line begins: set once, when shared memory is made.
#[derive(Debug)]
pub struct Clock {
    /// To be added to the steady clock.
    origin: AtomicI64,
    /// How far the wall clock is ahead of the steady time line.
    ahead: AtomicI64,
    /// The latest moment as of which a durable key was reset or got something back.
    last_reset: AtomicI64,
}

/// The wall clock may wander so far before we say that somebody set it.
const STEP: Micros = SECOND / 2;

/// When this process looks again whether the world has changed.
static NEXT_LOOK: AtomicI64 = AtomicI64::new(Micros::MIN);

impl Clock {
    /// Ties the steady time line to the wall clock, or goes on from a moment that was [`stopped`](Clock::stopped) at.
    pub fn start(&self, stopped: Option<Now>) {
        let wall = read(libc::CLOCK_REALTIME);
        let now = stopped.map_or(Now::at(wall), |stopped| stopped.resumed(wall));
        self.origin.store(now.steady.saturating_sub(read(STEADY)), Ordering::Relaxed);
        self.ahead.store(now.wall.saturating_sub(now.steady), Ordering::Relaxed);
    }

    /// This moment, with the wall clock as it is and not as we follow it.
    pub fn stopped(&self) -> Now {
        Now { steady: self.read().steady, wall: read(libc::CLOCK_REALTIME) }
    }

    /// The moment as of which a durable key is reset or gets something back: no take so far was later, and what is taken when that is
    /// done will be.
    pub fn reset(&self) -> Now {
        let now = self.read().plus(1);
        self.last_reset.fetch_max(now.steady, Ordering::Relaxed);
        now
    }

    /// The latest such moment.
    #[inline(always)]
    pub fn last_reset(&self) -> Micros {
        self.last_reset.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub fn now(&self) -> Now {
        let now = self.read();
        if now.steady >= NEXT_LOOK.load(Ordering::Relaxed) {
            self.look(now.steady);
            return self.read();
        }
        now
    }

    /// The same where PostgreSQL must not be called.
    #[inline(always)]
    pub fn read(&self) -> Now {
        let steady = read(STEADY) + self.origin.load(Ordering::Relaxed);
        Now { steady, wall: steady + self.ahead.load(Ordering::Relaxed) }
    }

    /// Once a second: follows a wall clock that was set, and lets a long statement see changed definitions.
    #[cold]
    fn look(&self, steady: Micros) {
        NEXT_LOOK.store(steady + SECOND, Ordering::Relaxed);
        let ahead = read(libc::CLOCK_REALTIME) - steady;
        if (ahead - self.ahead.load(Ordering::Relaxed)).abs() > STEP {
            self.ahead.store(ahead, Ordering::Relaxed);
        }
        // SAFETY: we are inside a function call of a transaction, and hold no lock.
        unsafe { pg_sys::AcceptInvalidationMessages() };
    }
}
