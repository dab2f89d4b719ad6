//! Limits that bound how many go on at once, beside rates or alone: a call takes a slot for its transaction and its cost, or neither.

use ratelimit_core::{Decision, Operation, Reason};

use super::{Asked, Store, Verdict};
use crate::catalog::{Definition, Stake};
use crate::durable;
use crate::error::{Error, Result};
use crate::shmem;
use crate::slots::{Slots, Term};

impl Store {
    /// The slots of a limiter for a key.
    pub fn slots<'a>(&self, limiter: &'a Definition, key: &'a [u8]) -> Result<Slots<'a>> {
        let slots = Slots::of(self.header, self.function, limiter, key)
            .ok_or_else(|| Error::no_slots(&limiter.name))?;
        if limiter.stake() == Stake::Durable && shmem::is_shared(self.header) {
            durable::load_leases(self.header, self.function)?;
        }
        Ok(slots)
    }

    /// The answer to who asks for a slot, where slots have nothing to say.
    pub fn settled(&self, limiter: &Definition, key: &[u8]) -> Result<Option<bool>> {
        Ok(match self.verdict(limiter, key)? {
            Verdict::Limited(_) => None,
            Verdict::Passes => Some(true),
            Verdict::ShutOut(..) => Some(false),
        })
    }

    /// Takes all slots that go with what is asked, then does `take`: if that says no, and where a slot is missing, there is none
    /// taken.
    pub(super) fn with_slots<R>(
        &self,
        asked: &mut Asked<'_>,
        take: impl FnOnce(&mut Asked<'_>) -> Result<R>,
        took: impl Fn(&R) -> bool,
        refused: impl FnOnce(Decision) -> R,
    ) -> Result<R> {
        if asked.slots.is_empty() {
            return take(asked);
        }
        let wanted = asked.slots.clone();
        for (n, (limiter, key)) in wanted.iter().enumerate() {
            let slots = self.slots(limiter, key)?;
            if !slots.try_take(Term::Transaction)? {
                self.give_back(&wanted[..n])?;
                return Ok(refused(no_slot(&slots, asked.requests.len() + n)));
            }
        }
        let answer = take(asked)?;
        if !took(&answer) {
            self.give_back(&wanted)?;
        }
        Ok(answer)
    }

    fn give_back(&self, taken: &[(&Definition, &[u8])]) -> Result<()> {
        for (limiter, key) in taken.iter().rev() {
            self.slots(limiter, key)?.give_back(Term::Transaction);
        }
        Ok(())
    }

    /// The first slot that is missing for what is asked.
    pub(super) fn missing_slot(&self, asked: &Asked<'_>) -> Result<Option<Decision>> {
        for (n, (limiter, key)) in asked.slots.iter().enumerate() {
            let slots = self.slots(limiter, key)?;
            if slots.free()? == 0 {
                return Ok(Some(no_slot(&slots, asked.requests.len() + n)));
            }
        }
        Ok(None)
    }

    /// Adds what is to be said of limiters that bound nothing but slots.
    pub(super) fn and_slots(
        &self,
        asked: &Asked<'_>,
        rates: Decision,
        operation: Operation,
    ) -> Result<Decision> {
        let mut answer = rates;
        let alone =
            asked.slots.iter().enumerate().filter(|(_, (limiter, _))| limiter.rules().is_empty());
        // A look has taken none, and tells what a call would leave.
        let wanted = u32::from(operation == Operation::Peek);
        let asked_of = alone.map(|(n, of)| (n, of, wanted));
        let shown = asked.shown.iter().map(|of| (0, of, 0));
        for (n, (limiter, key), wanted) in asked_of.chain(shown) {
            let slots = self.slots(limiter, key)?;
            let remaining = slots.free()?.saturating_sub(wanted);
            answer = answer.and(Decision {
                quota: slots.capacity().into(),
                remaining: remaining.into(),
                binding: asked.requests.len() + n,
                ..Decision::unlimited()
            });
        }
        Ok(answer)
    }
}

/// The answer where all slots are taken.
pub(super) fn no_slot(slots: &Slots<'_>, binding: usize) -> Decision {
    Decision {
        allowed: false,
        quota: slots.capacity().into(),
        remaining: 0,
        retry_after: None,
        reset_after: 0,
        reason: Some(Reason::Concurrency),
        binding,
    }
}
