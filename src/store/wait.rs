//! Waiting for a turn under a rate: the moment is booked at once, and slept until.
//!
//! So nobody is overtaken, there is nothing to poll, and nobody has to be woken. Whatever ends the wait early ends the transaction or a
//! part of it, which gives back what was booked. Who was banned or denied meanwhile is refused when it is their turn, and gives it back, too.

use ratelimit_core::table::Full;
use ratelimit_core::{Booking, Brief, Decision, Micros, Now, Operation, Reason};

use super::slots::no_slot;
use super::{Asked, Store};
use crate::catalog::{Definition, Mode, Stake};
use crate::error::{Error, Result};
use crate::shmem;
use crate::sleep::{sleep, Event};
use crate::slots::Term;
use crate::transaction;

impl Store {
    /// Takes the cost when it is its turn, which must not be later than `until`. The answer is as of that moment.
    pub fn acquire(
        &self,
        limiter: &Definition,
        key: &[u8],
        cost: u64,
        until: Option<Micros>,
    ) -> Result<Decision> {
        // In shadow nobody waits.
        if limiter.mode() == Mode::Shadow {
            return self.decide(limiter, key, cost, Operation::Take);
        }
        let verdict = self.verdict(limiter, key)?;
        let mut asked = Asked::new(limiter, &verdict, key, cost)?;
        if let Some(decision) = asked.settled() {
            self.count(limiter, key, decision.brief(cost));
            return Ok(decision);
        }
        // The slot first: what is booked cannot be put off until there is one.
        if asked.has_slots() {
            let slots = self.slots(limiter, key)?;
            if !slots.take(Term::Transaction, until)? {
                self.count(limiter, key, Brief::REFUSED);
                return Ok(no_slot(&slots, asked.requests.len()));
            }
            if let Some(refused) = self.verdict(limiter, key)?.shut_out() {
                slots.give_back(Term::Transaction);
                self.count(limiter, key, Brief::REFUSED);
                return Ok(refused);
            }
        }
        let decision = if shmem::is_shared(self.header) {
            self.wait_for_turn(limiter, key, &mut asked, until)?
        } else {
            self.try_again(limiter, key, &mut asked, until)?
        };
        if !decision.allowed && asked.has_slots() {
            self.slots(limiter, key)?.give_back(Term::Transaction);
        }
        self.count_turn(limiter, key, cost, &decision);
        if decision.reason == Some(Reason::Rate) {
            self.count_denial(&asked, decision.binding)?;
        }
        self.and_slots(&asked, decision, Operation::Take)
    }

    fn wait_for_turn(
        &self,
        limiter: &Definition,
        key: &[u8],
        asked: &mut Asked<'_>,
        until: Option<Micros>,
    ) -> Result<Decision> {
        asked.waits = true;
        let now = self.header.clock.now().steady;
        let booking = self.book(asked, until.map(|until| until.saturating_sub(now).max(0)))?;
        let mut refused = None;
        if let Some(wait @ 1..) = booking.wait {
            self.sleep_until(limiter, self.header.clock.now().steady.saturating_add(wait));
            refused = self.verdict(limiter, key)?.shut_out();
        }
        if refused.is_some() {
            let table = self.header.table();
            let now = self.now(&asked.requests);
            for request in &asked.requests {
                transaction::take_back(request.key, request.cost, |rule, taken| {
                    table.undo(rule, request.key, taken, now, false)
                });
            }
        }
        for n in (0..asked.requests.len()).rev().filter(|n| asked.stake(*n) == Stake::Keep) {
            if booking.wait.is_some() {
                let left = if refused.is_some() { 0 } else { asked.requests[n].cost };
                transaction::keep(asked.requests[n].key, left);
            }
        }
        Ok(refused.unwrap_or(booking.decision))
    }

    fn sleep_until(&self, limiter: &Definition, due: Micros) {
        let begin = self.header.clock.now().steady;
        let mut now = begin;
        while now < due {
            sleep(&self.header.clock, Some(due), Event::Rate);
            now = self.header.clock.now().steady;
        }
        limiter.stats().waited(now.saturating_sub(begin));
    }

    /// The same where no memory is shared: a key is locked from a take on, and nobody may sleep with that. So nothing is booked, and
    /// who was first may be overtaken.
    fn try_again(
        &self,
        limiter: &Definition,
        key: &[u8],
        asked: &mut Asked<'_>,
        until: Option<Micros>,
    ) -> Result<Decision> {
        loop {
            let decision = self.decide_rates(asked, Operation::Take)?;
            let now = self.header.clock.now().steady;
            let due = decision.retry_after.map(|wait| now.saturating_add(wait));
            match due.filter(|due| until.is_none_or(|until| *due <= until)) {
                Some(due) if !decision.allowed => self.sleep_until(limiter, due),
                _ => return Ok(decision),
            }
            if let Some(refused) = self.verdict(limiter, key)?.shut_out() {
                return Ok(refused);
            }
        }
    }

    /// Books the first moment at which the cost fits, if that is no further away than `max_wait`.
    pub fn reserve(
        &self,
        limiter: &Definition,
        key: &[u8],
        cost: u64,
        max_wait: Option<Micros>,
    ) -> Result<Booking> {
        if limiter.max_concurrent().is_some() {
            return Err(Error::reserve_with_slots(&limiter.name));
        }
        if limiter.mode() == Mode::Shadow {
            let decision = self.decide(limiter, key, cost, Operation::Take)?;
            return Ok(Booking { decision, wait: Some(0) });
        }
        let verdict = self.verdict(limiter, key)?;
        let mut asked = Asked::new(limiter, &verdict, key, cost)?;
        if let Some(decision) = asked.settled() {
            self.count(limiter, key, decision.brief(cost));
            return Ok(Booking { decision, wait: decision.allowed.then_some(0) });
        }
        let booking = self.book(&mut asked, max_wait)?;
        self.count_turn(limiter, key, cost, &booking.decision);
        // The client waits, which counts as if it were done here.
        if let Some(wait @ 1..) = booking.wait {
            limiter.stats().waited(wait);
        }
        if booking.wait.is_none() && booking.decision.reason == Some(Reason::Rate) {
            self.count_denial(&asked, booking.decision.binding)?;
        }
        Ok(booking)
    }

    fn book(&self, asked: &mut Asked<'_>, max_wait: Option<Micros>) -> Result<Booking> {
        let table = self.header.table();
        let full = |full: Full, asked: &Asked<'_>, now: Now| {
            let decision = self.when_full(full, asked, now);
            Booking { decision, wait: decision.allowed.then_some(0) }
        };
        self.run(
            asked,
            true,
            |requests, now, taken| table.reserve(requests, now, max_wait, taken),
            full,
            |booking| booking.wait.is_some(),
        )
    }
}
