//! `token_bucket` with refill by whole quotas, at the ends of periods. What is given back is counted as in the continuous bucket.

use crate::meter::Meter;
use crate::receipt::Receipt;
use crate::state::State;
use crate::time::{span, Micros, Now};
use crate::token_bucket::{add_steps, mark_of, steps_since, RETURNED, STEPS, TICKS};

/// Besides the mark of an interval bucket's state: it is booked up to the beginning of its period.
const BOOKED_PERIOD: u64 = RETURNED + 1;

/// A bucket that refills by whole quotas, at the ends of periods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalBucket {
    quota: u64,
    burst: u64,
    period: Micros,
    /// Something to know this definition by, with room below for the count of what was given back.
    mark: u64,
    /// In steps of so many tokens.
    step: u64,
}

impl IntervalBucket {
    /// `quota` tokens come back at the end of every `period`, counted from the take that left the bucket no longer full.
    pub(crate) fn new(quota: u64, period: Micros, burst: u64) -> Self {
        let mark = mark_of([quota, burst, period.unsigned_abs()]);
        IntervalBucket { quota, burst, period, mark, step: (burst >> STEPS).max(1) }
    }

    /// Empties the bucket less, and counts it.
    fn give_back<S: State>(&self, state: &mut S, view: &mut Missing, tokens: u64) -> u32 {
        let tokens = tokens.min(view.used);
        view.used -= tokens;
        add_steps(state, &mut view.returned, u128::from(tokens.div_ceil(self.step)))
    }

    /// The wait for `tokens` to come back.
    fn until(&self, view: &Missing, now: Now, tokens: u64) -> Micros {
        if tokens == 0 || self.quota == 0 {
            return 0;
        }
        let periods = i128::from(tokens.div_ceil(self.quota));
        span(i128::from(view.since) + periods * i128::from(self.period) - i128::from(now.steady))
    }
}

/// How many tokens are missing, and since when the period that brings some back has run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing {
    used: u64,
    since: Micros,
    /// How many steps were ever given back.
    returned: u64,
}

impl Meter for IntervalBucket {
    type View = Missing;

    fn capacity(&self) -> u64 {
        self.burst
    }

    #[inline(always)]
    fn view<S: State>(&self, state: &S, now: Now) -> Missing {
        let [used, since, mark] = state.words();
        let (mark, returned) = (mark & !TICKS, mark & RETURNED);
        // What is more than a whole bucket of another definition leaves this one empty, not worse.
        let used = if mark == self.mark { used } else { used.min(self.burst) };
        // What comes from the future has just begun.
        let since = since.cast_signed().min(now.steady);
        let periods = now.steady.abs_diff(since) / self.period.unsigned_abs();
        let used = used.saturating_sub(periods.saturating_mul(self.quota));
        if used == 0 {
            return Missing { used: 0, since: now.steady, returned };
        }
        let since =
            since.saturating_add_unsigned(periods.saturating_mul(self.period.unsigned_abs()));
        Missing { used, since, returned }
    }

    fn is_ahead<S: State>(&self, state: &S, now: Now) -> bool {
        let [used, since, mark] = state.words();
        since.cast_signed() > now.steady && (used > 0 || mark & BOOKED_PERIOD != 0)
    }

    #[inline(always)]
    fn ahead<S: State>(&self, state: &S, now: Now) -> Micros {
        let [_, since, mark] = state.words();
        if mark & BOOKED_PERIOD == 0 || mark & !TICKS != self.mark {
            return 0;
        }
        since.cast_signed().saturating_sub(now.steady).max(0)
    }

    // A booking in the midst of a period counts from its beginning: nothing comes back in between.
    fn set_booked<S: State>(&self, state: &mut S, _: Now) {
        let [used, since, mark] = state.words();
        state.set_words([used, since, mark | BOOKED_PERIOD]);
    }

    #[inline(always)]
    fn store<S: State>(&self, state: &mut S, view: &Missing) {
        state.set_words([view.used, view.since.cast_unsigned(), self.mark | view.returned]);
    }

    #[inline(always)]
    fn admits<S: State>(&self, _: &S, view: &Missing, cost: u64) -> bool {
        view.used.saturating_add(cost) <= self.burst
    }

    #[inline(always)]
    fn charge<S: State>(&self, _: &mut S, view: &mut Missing, _: Now, cost: u64) {
        view.used = view.used.saturating_add(cost);
    }

    fn refund<S: State>(&self, state: &mut S, view: &mut Missing, _: Now, cost: u64) {
        self.give_back(state, view, cost);
    }

    #[inline(always)]
    fn receipt<S: State>(&self, _: &S, view: &Missing, now: Now, cost: u64) -> Receipt {
        // Where the job ends, in tokens, and since when they have been brought back from its front.
        let position = i128::from(view.since) << 64 | i128::from(view.used);
        Receipt::new(now, cost, position, view.returned as u32, (self.mark >> 32) as u32)
    }

    fn undo<S: State>(
        &self,
        state: &mut S,
        view: &mut Missing,
        now: Now,
        receipt: &Receipt,
    ) -> Option<u32> {
        if state.words()[2] & !TICKS != self.mark || receipt.mark != (self.mark >> 32) as u32 {
            return None;
        }
        let (since, used) = ((receipt.position >> 64) as Micros, receipt.position as u64);
        let at = now.steady.max(view.since);
        let periods = at.saturating_sub(since).max(0) / self.period;
        let served = i128::from(periods) * i128::from(self.quota);
        let moved = steps_since(view.returned, receipt) * i128::from(self.step);
        let cost = i128::from(receipt.cost);
        let left = (i128::from(used) - served - moved).max(cost - served).clamp(0, cost);
        Some(self.give_back(state, view, u64::try_from(left).unwrap_or(0)))
    }

    fn shortened(&self, receipt: &Receipt, part: u64) -> Receipt {
        let position = receipt.position.saturating_sub(i128::from(part));
        Receipt { cost: receipt.cost.saturating_sub(part), position, ..*receipt }
    }

    fn merged(&self, one: &Receipt, other: &Receipt) -> Option<Receipt> {
        // Of one period: then the time of the first keeps its end where it is.
        let together = one.position >> 64 == other.position >> 64;
        if together {
            self.squeezed(one, other).map(|both| Receipt { at: one.at, ..both })
        } else {
            None
        }
    }

    fn squeezed(&self, one: &Receipt, other: &Receipt) -> Option<Receipt> {
        let position = one.position.saturating_add(i128::from(other.cost));
        let cost = one.cost.saturating_add(other.cost);
        Some(Receipt { at: other.at, cost, position, ..*one })
    }

    fn remaining<S: State>(&self, _: &S, view: &Missing) -> u64 {
        self.burst.saturating_sub(view.used)
    }

    #[inline(always)]
    fn reset_after<S: State>(&self, _: &S, view: &Missing, now: Now, cost: u64) -> Micros {
        self.until(view, now, view.used.saturating_add(cost))
    }

    fn wait<S: State>(&self, _: &S, view: &Missing, now: Now, cost: u64) -> Micros {
        self.until(view, now, view.used.saturating_sub(self.burst.saturating_sub(cost)))
    }
}
