//! The one place where a rule, a state, a cost and a moment become an answer.

use crate::decision::{fifth, Brief, Decision, Reason};
use crate::meter::Meter;
use crate::receipt::Receipt;
use crate::rule::{with_meter, Rule};
use crate::state::State;
use crate::time::{Micros, Now};

/// A cost asked of one rule for one key.
#[derive(Debug)]
pub struct Limit<'a, S> {
    rule: &'a Rule,
    state: S,
    cost: u64,
    receipt: Option<Receipt>,
}

impl<'a, S: State> Limit<'a, S> {
    /// Asks `cost` of `rule` for the key whose state this is.
    pub fn new(rule: &'a Rule, state: S, cost: u64) -> Self {
        Limit { rule, state, cost, receipt: None }
    }

    /// The state.
    pub(crate) fn state(&mut self) -> &mut S {
        &mut self.state
    }

    /// The rule and the cost.
    pub(crate) fn asked(&self) -> (&'a Rule, u64) {
        (self.rule, self.cost)
    }

    /// Whether the state may know a later moment than `now`.
    #[inline(always)]
    pub(crate) fn is_ahead(&self, now: Now) -> bool {
        with_meter!(self.rule, meter => meter.is_ahead(&self.state, now))
    }

    /// Why the cost cannot be taken, and for how long; `None` if it can.
    fn refusal(&self, now: Now) -> Option<Refusal> {
        with_meter!(self.rule, meter => refusal(meter, &self.state, now, self.cost))
    }

    fn answer(&self, now: Now, refusal: Option<Refusal>) -> Decision {
        with_meter!(self.rule, meter => answer(meter, &self.state, now, self.cost, refusal))
    }

    /// How far ahead of `now` the state is booked: that it may be says [`is_ahead`](Limit::is_ahead).
    #[cold]
    #[inline(never)]
    pub(crate) fn ahead(&self, now: Now) -> Micros {
        with_meter!(self.rule, meter => meter.ahead(&self.state, now))
    }

    /// Takes the cost, whether it fits or not. What is booked stays so, and this comes behind it.
    pub fn charge(&mut self, now: Now) {
        self.receipt = with_meter!(self.rule, meter => {
            let booked = meter.is_booked(&self.state, now);
            charge(meter, &mut self.state, now, self.cost, booked)
        });
    }

    /// Takes the cost, which fits.
    fn take(&mut self, now: Now) {
        self.receipt =
            with_meter!(self.rule, meter => charge(meter, &mut self.state, now, self.cost, false));
    }

    /// Takes the cost at the moment `then`, which is later, or as soon after it as what is booked already allows.
    pub(crate) fn book(&mut self, now: Now, then: Now) {
        let fresh = now.steady.saturating_add(self.reset_after(now));
        self.receipt = with_meter!(self.rule, meter => {
            let receipt = charge(meter, &mut self.state, then, self.cost, true);
            receipt.map(|receipt| meter.booked(receipt, fresh))
        });
    }

    /// What to remember of the last charge, to [`undo`](Limit::undo) it.
    pub fn receipt(&self) -> Option<Receipt> {
        self.receipt
    }

    /// Gives back what a charge took, as far as it still counts: what has come back by itself since then is not given twice. The
    /// state then holds at least as much as if the charge had never been made.
    ///
    /// Of several charges the latest is to be undone first: see [`Receipts::undo`](crate::Receipts::undo), which is for the answer.
    pub fn undo(&mut self, now: Now, receipt: &Receipt) -> u32 {
        if receipt.epoch != self.state.epoch() {
            return 0;
        }
        with_meter!(self.rule, meter => undo(meter, &mut self.state, now, receipt))
    }

    /// Gives the cost back, never above the capacity.
    pub fn refund(&mut self, now: Now) {
        with_meter!(self.rule, meter => refund(meter, &mut self.state, now, self.cost));
    }

    /// Takes the cost if it fits. The short way for one rule and a short answer.
    #[inline(always)]
    pub fn try_take(&mut self, now: Now) -> Brief {
        if self.is_ahead(now) && self.ahead(now) > 0 {
            return self.refuse_behind(now);
        }
        self.try_take_unbooked(now)
    }

    /// The same, with a receipt: see [`receipt`](Limit::receipt).
    #[inline(always)]
    pub fn try_take_with_receipt(&mut self, now: Now) -> Brief {
        if self.is_ahead(now) && self.ahead(now) > 0 {
            return self.refuse_behind(now);
        }
        self.try_take_unbooked_with_receipt(now)
    }

    /// The same where the state is not booked.
    #[inline(always)]
    pub(crate) fn try_take_unbooked(&mut self, now: Now) -> Brief {
        let taken = with_meter!(self.rule, meter => {
            try_take(meter, &mut self.state, now, self.cost, |_, _| ())
        });
        taken.brief()
    }

    /// The same where the state is not booked.
    #[inline(always)]
    pub(crate) fn try_take_unbooked_with_receipt(&mut self, now: Now) -> Brief {
        let (cost, epoch) = (self.cost, self.state.epoch());
        let taken = with_meter!(self.rule, meter => {
            try_take(meter, &mut self.state, now, cost, |state, view| {
                Receipt { epoch, ..meter.receipt(state, view, now, cost) }
            })
        });
        if let Taken::Cost { note: receipt, .. } = taken {
            self.receipt = Some(receipt);
        }
        taken.brief()
    }

    /// Comes behind what is booked; only a cost of 0 does not have to wait.
    #[cold]
    #[inline(never)]
    pub(crate) fn refuse_behind(&mut self, now: Now) -> Brief {
        let refusal = self.refusal(now);
        if let Some(refusal) = refusal {
            self.refused(now, refusal);
            return Brief::REFUSED;
        }
        Brief::ALLOWED
    }

    /// Writes until when the state matters, for a state that was put together elsewhere.
    pub(crate) fn settle(&mut self, now: Now) {
        with_meter!(self.rule, meter => {
            let (at, booked) = moment(meter, &self.state, now);
            let view = meter.view(&self.state, at);
            settle_booked(meter, &mut self.state, view, at, booked);
        });
    }

    fn remaining(&self, now: Now) -> u64 {
        with_meter!(self.rule, meter => remaining(meter, &self.state, now))
    }

    pub(crate) fn reset_after(&self, now: Now) -> Micros {
        with_meter!(self.rule, meter => {
            let ahead = meter.ahead(&self.state, now);
            let at = now.plus(ahead);
            ahead.saturating_add(meter.reset_after(&self.state, &meter.view(&self.state, at), at, 0))
        })
    }

    /// Tells the state that it was asked in vain, so that it is kept until that would pass.
    fn refused(&mut self, now: Now, refusal: Refusal) {
        with_meter!(self.rule, meter => refused(meter, &mut self.state, now, refusal));
    }
}

/// Whether a decision takes what it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Takes.
    Take,
    /// Only looks: the answer that `Take` would give, and no change.
    Peek,
}

/// Decides for several limits at once: all take their cost, or none does.
///
/// The limit that binds is reported: refused, the one with the longest wait; allowed, the one with the least remaining; the
/// first of equals. Its place is in [`Decision::binding`].
pub fn decide<S: State>(limits: &mut [Limit<'_, S>], now: Now, operation: Operation) -> Decision {
    let mut answer = Decision::unlimited();
    for (binding, limit) in limits.iter_mut().enumerate() {
        let refusal = limit.refusal(now);
        if let (Some(refusal), Operation::Take) = (refusal, operation) {
            limit.refused(now, refusal);
        }
        answer = answer.and(Decision { binding, ..limit.answer(now, refusal) });
    }
    if !answer.allowed {
        // What would have passed alone takes nothing either.
        let longest = limits.iter().map(|limit| limit.reset_after(now)).max();
        answer.reset_after = longest.unwrap_or(answer.reset_after);
    } else if operation == Operation::Take {
        for limit in limits {
            limit.take(now);
        }
    }
    answer
}

/// Takes as much as fits, up to the costs of the limits, which are all the same, and says how much.
pub fn take_at_most<S: State>(limits: &mut [Limit<'_, S>], now: Now) -> u64 {
    let granted =
        limits.iter().map(|limit| limit.remaining(now).min(limit.cost)).min().unwrap_or(0);
    for limit in limits {
        limit.cost = granted;
        if granted > 0 {
            limit.take(now);
        }
    }
    granted
}

/// Why a cost does not fit: for how long, or for ever.
type Refusal = Option<Micros>;

#[inline]
fn refusal<M: Meter, S: State>(meter: &M, state: &S, now: Now, cost: u64) -> Option<Refusal> {
    let capacity = meter.capacity();
    if cost > capacity || capacity == 0 {
        return Some(None);
    }
    if cost == 0 {
        return None;
    }
    let ahead = meter.ahead(state, now);
    let at = now.plus(ahead);
    let view = meter.view(state, at);
    if meter.admits(state, &view, cost) {
        return (ahead > 0).then_some(Some(ahead));
    }
    Some(Some(ahead.saturating_add(meter.wait(state, &view, at, cost))))
}

fn remaining<M: Meter, S: State>(meter: &M, state: &S, now: Now) -> u64 {
    if meter.ahead(state, now) > 0 {
        return 0;
    }
    meter.remaining(state, &meter.view(state, now))
}

fn answer<M: Meter, S: State>(
    meter: &M,
    state: &S,
    now: Now,
    cost: u64,
    refusal: Option<Refusal>,
) -> Decision {
    let ahead = meter.ahead(state, now);
    let at = now.plus(ahead);
    let view = meter.view(state, at);
    let allowed = refusal.is_none();
    let taken = if allowed { cost } else { 0 };
    Decision {
        allowed,
        quota: meter.capacity(),
        remaining: remaining(meter, state, now).saturating_sub(taken),
        retry_after: refusal.unwrap_or(Some(0)),
        reset_after: ahead.saturating_add(meter.reset_after(state, &view, at, taken)),
        reason: refusal.map(|wait| if wait.is_some() { Reason::Rate } else { Reason::Never }),
        binding: 0,
    }
}

fn charge<M: Meter, S: State>(
    meter: &M,
    state: &mut S,
    now: Now,
    cost: u64,
    booked: bool,
) -> Option<Receipt> {
    if cost == 0 || meter.capacity() == 0 {
        return None;
    }
    let at = now.plus(meter.ahead(state, now));
    let mut view = meter.view(state, at);
    meter.charge(state, &mut view, at, cost);
    let receipt = meter.receipt(state, &view, at, cost);
    settle_booked(meter, state, view, at, booked);
    Some(Receipt { epoch: state.epoch(), ..receipt })
}

fn undo<M: Meter, S: State>(meter: &M, state: &mut S, now: Now, receipt: &Receipt) -> u32 {
    let (at, booked) = moment(meter, state, now);
    let mut view = meter.view(state, at);
    let undone = meter.undo(state, &mut view, now, receipt);
    if undone.is_some() {
        settle_booked(meter, state, view, at, booked);
    }
    undone.unwrap_or(0)
}

fn refund<M: Meter, S: State>(meter: &M, state: &mut S, now: Now, cost: u64) {
    let (at, booked) = moment(meter, state, now);
    let mut view = meter.view(state, at);
    meter.refund(state, &mut view, now, cost);
    settle_booked(meter, state, view, at, booked);
}

/// The moment of the state: now, or the one up to which it is booked; and whether to remember bookings.
fn moment<M: Meter, S: State>(meter: &M, state: &S, now: Now) -> (Now, bool) {
    (now.plus(meter.ahead(state, now)), meter.is_booked(state, now))
}

/// What came of trying to take.
enum Taken<R> {
    Nothing,
    /// A cost of 0: there was nothing to take.
    Zero,
    /// The cost, and what was to be known of it.
    Cost {
        note: R,
        near_limit: bool,
    },
}

impl<R> Taken<R> {
    #[inline(always)]
    fn brief(&self) -> Brief {
        match self {
            Taken::Nothing => Brief::REFUSED,
            Taken::Zero => Brief::ALLOWED,
            Taken::Cost { near_limit, .. } => Brief { allowed: true, near_limit: *near_limit },
        }
    }
}

#[inline(always)]
fn try_take<M: Meter, S: State, R>(
    meter: &M,
    state: &mut S,
    now: Now,
    cost: u64,
    note: impl FnOnce(&S, &M::View) -> R,
) -> Taken<R> {
    let capacity = meter.capacity();
    if cost > capacity || cost == 0 {
        return if cost == 0 && capacity > 0 { Taken::Zero } else { Taken::Nothing };
    }
    let mut view = meter.view(state, now);
    if !meter.admits(state, &view, cost) {
        let wait = meter.wait(state, &view, now, cost);
        meter.take_over(state, now);
        state.refused(now.steady.saturating_add(wait));
        return Taken::Nothing;
    }
    meter.charge(state, &mut view, now, cost);
    let note = note(state, &view);
    // What is left does not admit a fifth: so one need not know how much it is.
    let near_limit = !meter.admits(state, &view, fifth(capacity));
    settle(meter, state, view, now);
    Taken::Cost { note, near_limit }
}

/// Writes a changed state, and until when it matters: a key that refuses even a cost of 1 must not be forgotten early.
#[inline(always)]
fn settle<M: Meter, S: State>(meter: &M, state: &mut S, view: M::View, now: Now) {
    meter.store(state, &view);
    let (fresh, open) = matters(meter, state, &view, now);
    state.settled(fresh, open);
}

/// The same for a state that may be booked up to `at`: until then it must be kept, whatever it refuses.
fn settle_booked<M: Meter, S: State>(
    meter: &M,
    state: &mut S,
    view: M::View,
    at: Now,
    booked: bool,
) {
    if !booked {
        return settle(meter, state, view, at);
    }
    meter.store(state, &view);
    meter.set_booked(state, at);
    let (fresh, open) = matters(meter, state, &view, at);
    state.settled(fresh, open.max(at.steady));
}

/// From when on the key is as good as new, and until when it refuses even a cost of 1.
#[inline(always)]
fn matters<M: Meter, S: State>(meter: &M, state: &S, view: &M::View, now: Now) -> (Micros, Micros) {
    let fresh = now.steady.saturating_add(meter.reset_after(state, view, now, 0));
    let open = if meter.admits(state, view, 1) {
        Micros::MIN
    } else {
        now.steady.saturating_add(meter.wait(state, view, now, 1))
    };
    (fresh, open)
}

fn refused<M: Meter, S: State>(meter: &M, state: &mut S, now: Now, refusal: Refusal) {
    if let Some(wait) = refusal {
        if meter.ahead(state, now) == 0 {
            meter.take_over(state, now);
        }
        state.refused(now.steady.saturating_add(wait));
    }
}
