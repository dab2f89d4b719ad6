//! Waiting for a slot: asleep in a queue, until it is handed over.

use ratelimit_core::slots::{Outcome, Terms, Wait, Wanted};
use ratelimit_core::Micros;

use super::deadlock::Detector;
use super::{hold, Slots};
use crate::catalog;
use crate::error::{Error, Result};
use crate::shmem;
use crate::sleep::{sleep, Event};

impl Slots<'_> {
    /// The number of the slot that this process gets when it is its turn; None when that is not before `until`. Whatever else ends
    /// the wait takes the process out of the queue: see `hold.rs`.
    pub(super) fn wait(&self, terms: Terms, until: Option<Micros>) -> Result<Option<u32>> {
        if !self.is_shared() {
            return self.lock(terms, until);
        }
        // How many there are may change meanwhile.
        let mut slots = *self;
        let mut outcome = slots.queue(terms, until)?;
        if outcome == Outcome::Ceiling {
            // Others' leases may have expired.
            self.header.sweep_slots();
            outcome = slots.queue(terms, until)?;
        }
        match outcome {
            Outcome::Granted(number) => Ok(Some(number)),
            Outcome::Waiting => {
                self.limiter.stats().timed_out();
                Ok(None)
            }
            Outcome::Ceiling => Err(self.ceiling()),
        }
    }

    /// How waiting in the queue ends: [`Outcome::Waiting`] is that it took too long.
    fn queue(&mut self, terms: Terms, until: Option<Micros>) -> Result<Outcome> {
        let (header, process, claim) = (self.header, shmem::process(), self.claim(terms));
        hold::wait(header);
        let begin = self.now();
        let mut detector = Detector::new(begin);
        let mut outcome =
            header.with_slots(|slots| slots.enqueue(self.key, self.capacity, begin, &claim));
        // One try is no wait.
        let waits = outcome == Outcome::Waiting && until.is_none_or(|until| until > begin);
        // The limit may have changed since it was read, and from now on.
        let mut known = None;
        while outcome == Outcome::Waiting {
            let changes = Some(header.definition_changes());
            if known != changes {
                known = changes;
                self.follow_definition()?;
            }
            let look = header.with_slots(|slots| slots.next_look(process));
            let next = until.into_iter().chain(look).fold(detector.due(), Micros::min);
            sleep(&header.clock, Some(next), Event::Slot);
            let now = self.now();
            let over = until.is_some_and(|until| until <= now);
            outcome = header
                .with_slots(|slots| {
                    if look.is_some_and(|look| look <= now) {
                        slots.settle(self.key, now);
                    }
                    match slots.outcome(process, now) {
                        Some(Outcome::Waiting) if over => {
                            slots.cancel(process);
                            None
                        }
                        outcome => outcome,
                    }
                })
                .unwrap_or(Outcome::Waiting);
            if over && outcome == Outcome::Waiting {
                break;
            }
            if outcome == Outcome::Waiting {
                detector.look(now, || |pid| self.wait_of(pid), hold::leave_queue)?;
            }
        }
        hold::waited();
        if waits {
            self.limiter.stats().waited(self.now().saturating_sub(begin));
        }
        Ok(outcome)
    }

    /// The slot that a process waits for.
    fn wait_of(&self, pid: i32) -> Option<Wait> {
        let process = shmem::process_of(pid)?;
        // Under the lock there is nothing to allocate.
        let mut blockers = Vec::with_capacity(self.header.max_slots());
        let since = self.header.with_slots(|slots| {
            let (since, holders) = slots.awaited(process)?;
            blockers.extend(holders.take(blockers.capacity()));
            Some(since)
        })?;
        Some(Wait { wanted: Wanted::Slot, blockers, since })
    }

    /// Somebody has changed definitions: perhaps there are more slots now, or the limiter is gone.
    fn follow_definition(&mut self) -> Result<()> {
        self.capacity = self.current_capacity()?;
        self.header.with_slots(|slots| slots.set_capacity(self.key, self.capacity));
        Ok(())
    }

    /// How many slots there are by now; an error if the limiter is gone.
    pub(super) fn current_capacity(&self) -> Result<u32> {
        let name = self.limiter.bytes();
        let limiter = catalog::limiter(self.header, name, self.function)?;
        if limiter.id() != self.limiter.id() {
            return Err(Error::unknown_limiter(name));
        }
        limiter.max_concurrent().ok_or_else(|| Error::no_slots(&self.limiter.name))
    }
}
