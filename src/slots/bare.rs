//! Slots where no memory is shared: those of durable limiters, before PostgreSQL 17, without preload. The lock manager alone decides.
//!
//! The slots of a key are numbered, and a slot is the lock on its number. A newcomer looks which are taken and tries one that is not:
//! [`ratelimit_core::slots::free_number`] says why there are never too many. Who waits looks again and again, and whoever looks first
//! after a release is the next.

use pgrx::pg_sys;
use ratelimit_core::slots::{free_number, Wait, Wanted};
use ratelimit_core::{Micros, MILLISECOND};

use super::deadlock::Detector;
use super::hold::{self, Term};
use super::{lock, Slots};
use crate::error::Result;
use crate::shmem;
use crate::sleep::{sleep, Event};

/// No key has more numbers, whatever its limiter says: the most that `ratelimit.max_slots` can be.
const NUMBERS: u32 = 1_000_000;

/// Who tries to lock so often without success was not overtaken: the lock table is full.
const ATTEMPTS: usize = 100;

/// How long a waiter sleeps at first and at last, before it looks again.
const PAUSES: [Micros; 2] = [MILLISECOND, 20 * MILLISECOND];

impl Slots<'_> {
    /// How many could be taken now.
    pub(super) fn count_unlocked(&self) -> u32 {
        let taken = self.taken(&lock::all()).len();
        self.capacity.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }

    /// Takes one of `capacity` slots if that needs no waiting.
    pub(super) fn try_lock(&self, term: Term, capacity: u32) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            let locked = lock::all();
            let start = shmem::process();
            let number = free_number(&self.taken(&locked), capacity.min(NUMBERS), start);
            let Some(number) = number else { return Ok(false) };
            if locked.iter().filter(|lock| lock.is_slot()).count() >= self.header.max_slots() {
                break;
            }
            let tag = lock::tag(self.key, number);
            if lock::acquire(&tag, term == Term::Session) {
                hold::remember(self.header, self.key, number, tag, term);
                return Ok(true);
            }
        }
        Err(self.ceiling())
    }

    /// Takes one when there is one; no later than `until`.
    pub(super) fn lock(&self, term: Term, until: Option<Micros>) -> Result<bool> {
        let (mut capacity, [mut pause, longest]) = (self.capacity, PAUSES);
        let mut detector = Detector::new(self.now());
        let mut got = self.try_lock(term, capacity)?;
        if !got {
            lock::mark_waiter(self.key);
        }
        while !got {
            let now = self.now();
            if until.is_some_and(|until| until <= now) {
                break;
            }
            let next = now.saturating_add(pause);
            sleep(&self.header.clock, until.into_iter().chain([next]).min(), Event::Slot);
            pause = longest.min(2 * pause);
            // SAFETY: in a transaction. Here it is how others' changes of definitions are heard of.
            unsafe { pg_sys::AcceptInvalidationMessages() };
            capacity = self.current_capacity()?;
            got = self.try_lock(term, capacity)?;
            if !got {
                detector.look(self.now(), waits, || lock::unmark_waiter(self.key))?;
            }
        }
        lock::unmark_waiter(self.key);
        Ok(got)
    }

    /// The numbers that are taken, ascending.
    fn taken(&self, locked: &[lock::Locked]) -> Vec<u32> {
        let mut taken: Vec<_> =
            locked.iter().filter_map(|lock| lock.number(self.key, NUMBERS)).collect();
        taken.sort_unstable();
        taken
    }
}

/// Who waits for a slot, as far as the marks of waiters show it. They do not say since when.
fn waits() -> impl Fn(i32) -> Option<Wait> {
    let locked = lock::all();
    move |pid| {
        let mark = locked.iter().find(|lock| lock.pid == pid && !lock.is_slot())?;
        let holders = locked.iter().filter(|lock| lock.is_awaited(mark, NUMBERS));
        let mut blockers: Vec<_> = holders.map(|lock| lock.pid).collect();
        blockers.sort_unstable();
        Some(Wait { wanted: Wanted::Slot, blockers, since: 0 })
    }
}
