//! Slots where no memory is shared: those of durable limiters, before PostgreSQL 17, without preload. The lock manager decides, and a
//! table of leases.
//!
//! The slots of a key are numbered, and a slot is the lock on its number, or a lease with it. A newcomer looks which are taken, and locks
//! one that is not: [`ratelimit_core::slots::free_number`] says why there are never too many. Who waits looks again and again, and whoever
//! looks first after a release is the next.

mod lease;

pub use lease::{release, renew};

use pgrx::pg_sys;
use ratelimit_core::slots::{free_number, Terms, Wait, Wanted};
use ratelimit_core::{Micros, MILLISECOND};

use super::deadlock::Detector;
use super::{lock, Slots};
use crate::durable::Scratch;
use crate::error::Result;
use crate::shmem::{self, Header};
use crate::sleep::{sleep, Event};

/// No key has more numbers, whatever its limiter says: the most that `ratelimit.max_slots` can be.
const NUMBERS: u32 = 1_000_000;

/// Who tries to lock so often without success was not overtaken: the lock table is full.
const ATTEMPTS: usize = 100;

/// How long a waiter sleeps at first and at last, before it looks again.
const PAUSES: [Micros; 2] = [MILLISECOND, 20 * MILLISECOND];

/// What came of an attempt.
enum Attempt {
    /// This session has locked the slot with this number.
    Locked(u32),
    /// All are taken, some of them perhaps by leases.
    Refused { by_leases: bool },
}

impl Slots<'_> {
    /// How many could be taken now.
    pub(super) fn count_unlocked(&self) -> Result<u32> {
        let (taken, _) = self.taken(&lock::all())?;
        Ok(self.capacity.saturating_sub(u32::try_from(taken.len()).unwrap_or(u32::MAX)))
    }

    /// The number of a slot that this session has locked, if that needs no waiting.
    pub(super) fn try_lock(&self, terms: Terms) -> Result<Option<u32>> {
        match self.attempt(terms, self.capacity)? {
            Attempt::Locked(number) => Ok(Some(number)),
            Attempt::Refused { .. } => Ok(None),
        }
    }

    /// The same when there is one; no later than `until`.
    pub(super) fn lock(&self, terms: Terms, until: Option<Micros>) -> Result<Option<u32>> {
        let (mut capacity, [mut pause, longest]) = (self.capacity, PAUSES);
        let (mut detector, scratch) = (Detector::new(self.now()), Scratch::new());
        let got = loop {
            let by_leases = match scratch.run(|| self.attempt(terms, capacity))? {
                Attempt::Locked(number) => break Some(number),
                Attempt::Refused { by_leases } => by_leases,
            };
            let now = self.now();
            if until.is_some_and(|until| until <= now) {
                break None;
            }
            // A lease ends without anybody's doing: while there is one there is no deadlock.
            if by_leases {
                lock::unmark_waiter(self.key);
            } else {
                lock::mark_waiter(self.key);
            }
            detector.look(now, waits, || lock::unmark_waiter(self.key))?;
            let next = now.saturating_add(pause);
            sleep(&self.header.clock, until.into_iter().chain([next]).min(), Event::Slot);
            pause = longest.min(2 * pause);
            // SAFETY: in a transaction. Here it is how others' changes of definitions are heard of.
            unsafe { pg_sys::AcceptInvalidationMessages() };
            capacity = scratch.run(|| self.current_capacity())?;
        };
        lock::unmark_waiter(self.key);
        Ok(got)
    }

    fn attempt(&self, terms: Terms, capacity: u32) -> Result<Attempt> {
        let for_session = matches!(terms, Terms::Session);
        for _ in 0..ATTEMPTS {
            let locked = lock::all();
            let (taken, by_leases) = self.taken(&locked)?;
            let start = shmem::process();
            let Some(number) = free_number(&taken, capacity.min(NUMBERS), start) else {
                return Ok(Attempt::Refused { by_leases });
            };
            if is_full(self.header, &locked) {
                break;
            }
            let tag = lock::tag(self.key, number);
            if lock::acquire(&tag, for_session) {
                // Who had it since may have left it to a lease.
                if !self.leased()?.contains(&Some(number)) {
                    return Ok(Attempt::Locked(number));
                }
                lock::release(&tag, for_session);
            }
        }
        Err(self.ceiling())
    }

    /// The numbers that are taken, ascending, and whether some are by leases. The locks must be read before the leases: whoever takes a
    /// lease holds the lock until others see the lease.
    fn taken(&self, locked: &[lock::Locked]) -> Result<(Vec<u32>, bool)> {
        let leased = self.leased()?;
        // Those without a number are above all others, each in a place of its own.
        let above = (0..u32::MAX).rev();
        let leases = leased.iter().zip(above).map(|(number, above)| number.unwrap_or(above));
        let locks = locked.iter().filter_map(|lock| lock.number(self.key, NUMBERS));
        let mut taken: Vec<_> = locks.chain(leases).collect();
        taken.sort_unstable();
        taken.dedup();
        Ok((taken, !leased.is_empty()))
    }
}

/// Whether there are as many locks as there may be. The marks of waiters are few, and do not count.
fn is_full(header: &Header, locked: &[lock::Locked]) -> bool {
    locked.iter().filter(|lock| !lock.is_mark()).count() >= header.max_slots()
}

/// Who waits for a slot, as far as the marks of waiters show it. They do not say since when.
fn waits() -> impl Fn(i32) -> Option<Wait> {
    let locked = lock::all();
    move |pid| {
        let mark = locked.iter().find(|lock| lock.pid == pid && lock.is_mark())?;
        let holders = locked.iter().filter(|lock| lock.is_awaited(mark, NUMBERS));
        let mut blockers: Vec<_> = holders.map(|lock| lock.pid).collect();
        blockers.sort_unstable();
        Some(Wait { wanted: Wanted::Slot, blockers, since: 0 })
    }
}
