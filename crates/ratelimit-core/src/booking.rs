//! Booking the moment at which a cost will fit: a decision that is made now for then.
//!
//! A state stands at the latest moment that is booked. Who comes before that is decided as if he came then, so nobody passes
//! before those who were first, and what is booked needs no other memory than what was taken.

use crate::decide::{decide, Limit, Operation};
use crate::decision::Decision;
use crate::state::State;
use crate::time::{Micros, Now};

/// The answer to who is ready to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booking {
    /// Booked, the answer as of the moment that is booked; otherwise the plain refusal.
    pub decision: Decision,
    /// How long until that moment, 0 if it is now. `None` if nothing was booked, because it can never pass or not within the longest wait.
    pub wait: Option<Micros>,
}

/// Decides as [`decide`] does for who is ready to wait for `max_wait`, or for as long as it takes: books the first moment at which all
/// costs fit behind what is booked before, for all limits or for none. To cancel it, [`undo`](Limit::undo) the receipts.
pub fn reserve<S: State>(
    limits: &mut [Limit<'_, S>],
    now: Now,
    max_wait: Option<Micros>,
) -> Booking {
    let decision = decide(limits, now, Operation::Take);
    if decision.allowed {
        return Booking { decision, wait: Some(0) };
    }
    let refused = Booking { decision, wait: None };
    let Some(wait) = within(decision, max_wait) else { return refused };
    let then = now.plus(wait);
    let decision = decide(limits, then, Operation::Peek);
    // Only at the end of time does what was to be there not come.
    if !decision.allowed {
        return refused;
    }
    for limit in limits {
        limit.book(now, then);
    }
    Booking { decision, wait: Some(wait) }
}

/// How long until all costs fit, if that is within the longest wait.
pub(crate) fn opening<S: State>(
    limits: &mut [Limit<'_, S>],
    now: Now,
    max_wait: Option<Micros>,
) -> Option<Micros> {
    within(decide(limits, now, Operation::Peek), max_wait)
}

fn within(decision: Decision, max_wait: Option<Micros>) -> Option<Micros> {
    decision.retry_after.filter(|wait| max_wait.is_none_or(|longest| *wait <= longest))
}
