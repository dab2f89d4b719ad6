//! Who is ready to wait: `reserve` books a later moment, first come, first served.
//!
//! That a booked moment is the first at which the definition lets the cost pass is part of the oracle tests.

#[path = "../common/mod.rs"]
mod common;

mod cancel;
mod examples;
mod history;

use common::Key;
use ratelimit_core::{
    decide, reserve, Booking, Decision, Limit, MemoryState, Micros, Now, Operation, RateSpec,
    Receipt,
};

/// One key under several rules.
#[derive(Clone, Debug)]
struct Keys(Vec<Key>);

/// What to undo, of each rule.
type Held = Vec<Option<Receipt>>;

impl Keys {
    fn new(specs: &[RateSpec]) -> Self {
        Keys(specs.iter().map(Key::new).collect())
    }

    fn limits(&mut self, cost: u64) -> Vec<Limit<'_, &mut MemoryState>> {
        self.0.iter_mut().map(|Key { rule, state }| Limit::new(rule, state, cost)).collect()
    }

    fn take(&mut self, now: Now, cost: u64) -> (Decision, Held) {
        let mut limits = self.limits(cost);
        let answer = decide(&mut limits, now, Operation::Take);
        (answer, limits.iter().map(Limit::receipt).collect())
    }

    fn peek(&self, now: Now, cost: u64) -> Decision {
        decide(&mut self.clone().limits(cost), now, Operation::Peek)
    }

    fn reserve(&mut self, now: Now, cost: u64, max_wait: Option<Micros>) -> (Booking, Held) {
        let mut limits = self.limits(cost);
        let booking = reserve(&mut limits, now, max_wait);
        (booking, limits.iter().map(Limit::receipt).collect())
    }

    /// How long the wait is, where there is one.
    fn wait(&mut self, now: Now, cost: u64) -> Option<Micros> {
        self.reserve(now, cost, None).0.wait
    }

    fn undo(&mut self, now: Now, held: &Held) {
        for (limit, receipt) in self.limits(0).iter_mut().zip(held) {
            if let Some(receipt) = receipt {
                limit.undo(now, receipt);
            }
        }
    }
}
