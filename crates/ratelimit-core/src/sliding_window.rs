//! `sliding_window`: two counters, the last window's fading as the current one goes on.
//!
//! The estimate `prev * (1 - elapsed / period) + current` is Cloudflare's ("Counting things, a lot of different things", 2017);
//! here both sides are multiplied by the period, so nothing is rounded.

use crate::count::{booking_mark, counted, is_marked, split};
use crate::meter::Meter;
use crate::receipt::Receipt;
use crate::state::State;
use crate::time::{div_ceil, span, Micros, Now};

/// Counts in a window that slides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    quota: u64,
    period: Micros,
    /// Above the current count of a state that is booked under this definition: then the first word is not the window's end but the
    /// moment.
    mark: u64,
}

impl SlidingWindow {
    pub(crate) fn new(quota: u64, period: Micros) -> Self {
        let mark = booking_mark([quota, period.unsigned_abs(), 0]);
        SlidingWindow { quota, period, mark }
    }

    /// When the window around a moment ends.
    #[cold]
    #[inline(never)]
    fn end_around(&self, at: Micros) -> Micros {
        self.start(at).0.saturating_add(self.period)
    }

    /// When the window around a moment began, and how long ago that was.
    #[inline(always)]
    fn start(&self, at: Micros) -> (Micros, Micros) {
        let elapsed = at.rem_euclid(self.period);
        (at.saturating_sub(elapsed), elapsed)
    }

    /// The weighted count, multiplied by the period.
    fn weighted(&self, view: &Counts) -> i128 {
        let left = i128::from(self.period - view.elapsed);
        i128::from(view.previous)
            .saturating_mul(left)
            .saturating_add(i128::from(view.current).saturating_mul(i128::from(self.period)))
    }

    /// How long into a window that follows one with `count` until `room` is free.
    fn fades(&self, count: u64, room: u64) -> Micros {
        if count == 0 {
            return 0;
        }
        let period = i128::from(self.period);
        // The smallest elapsed with count * (period - elapsed) <= room * period.
        let excess = i128::from(count) - i128::from(room);
        span(div_ceil(excess.max(0) * period, i128::from(count)))
    }
}

/// Both counts as they stand, and how much of the current window has gone by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    start: Micros,
    elapsed: Micros,
    previous: u64,
    current: u64,
}

impl Meter for SlidingWindow {
    type View = Counts;

    fn capacity(&self) -> u64 {
        self.quota
    }

    fn view<S: State>(&self, state: &S, now: Now) -> Counts {
        let [ended, previous, current] = state.words();
        let ended = ended.cast_signed();
        let ended = if is_marked(current) { self.end_around(ended) } else { ended };
        let (current, _) = split(current);
        let (start, elapsed) = self.start(now.steady);
        let (previous, current) = if ended > start {
            // Another end than that of the current window comes from another definition: what was taken counts here.
            (previous, current)
        } else if ended > start.saturating_sub(self.period) {
            (current, 0)
        } else {
            (0, 0)
        };
        Counts { start, elapsed, previous, current }
    }

    fn is_ahead<S: State>(&self, state: &S, now: Now) -> bool {
        let [ended, _, current] = state.words();
        ended.cast_signed().saturating_sub(self.period) > now.steady || is_marked(current)
    }

    #[inline(always)]
    fn ahead<S: State>(&self, state: &S, now: Now) -> Micros {
        let [at, _, current] = state.words();
        if !is_marked(current) || split(current).1 != self.mark {
            return 0;
        }
        at.cast_signed().saturating_sub(now.steady).max(0)
    }

    fn set_booked<S: State>(&self, state: &mut S, at: Now) {
        let [_, previous, current] = state.words();
        state.set_words([at.steady.cast_unsigned(), previous, current | self.mark]);
    }

    fn store<S: State>(&self, state: &mut S, view: &Counts) {
        let end = view.start.saturating_add(self.period);
        state.set_words([end.cast_unsigned(), view.previous, counted(view.current)]);
    }

    fn admits<S: State>(&self, _: &S, view: &Counts, cost: u64) -> bool {
        let period = i128::from(self.period);
        self.weighted(view).saturating_add(i128::from(cost).saturating_mul(period))
            <= i128::from(self.quota) * period
    }

    fn charge<S: State>(&self, _: &mut S, view: &mut Counts, _: Now, cost: u64) {
        view.current = view.current.saturating_add(cost);
    }

    fn refund<S: State>(&self, _: &mut S, view: &mut Counts, _: Now, cost: u64) {
        // What was not taken in this window was taken in the one before.
        let rest = cost.saturating_sub(view.current);
        view.current = view.current.saturating_sub(cost);
        view.previous = view.previous.saturating_sub(rest);
    }

    fn receipt<S: State>(&self, _: &S, view: &Counts, now: Now, cost: u64) -> Receipt {
        Receipt::new(now, cost, i128::from(view.start), 0, 0)
    }

    fn undo<S: State>(
        &self,
        _: &mut S,
        view: &mut Counts,
        _: Now,
        receipt: &Receipt,
    ) -> Option<u32> {
        let (current, taken) = (i128::from(view.start), receipt.position);
        if taken == current {
            view.current = view.current.saturating_sub(receipt.cost);
        } else if taken == current - i128::from(self.period) {
            view.previous = view.previous.saturating_sub(receipt.cost);
        } else {
            return None;
        }
        Some(0)
    }

    fn remaining<S: State>(&self, _: &S, view: &Counts) -> u64 {
        let period = i128::from(self.period);
        let free = (i128::from(self.quota) * period - self.weighted(view)).max(0);
        u64::try_from(free / period).unwrap_or(u64::MAX)
    }

    fn reset_after<S: State>(&self, _: &S, view: &Counts, _: Now, cost: u64) -> Micros {
        let left = self.period - view.elapsed;
        if view.current.saturating_add(cost) > 0 {
            left.saturating_add(self.period)
        } else if view.previous > 0 {
            left
        } else {
            0
        }
    }

    fn wait<S: State>(&self, _: &S, view: &Counts, _: Now, cost: u64) -> Micros {
        let room = self.quota.saturating_sub(cost);
        if view.current <= room {
            self.fades(view.previous, room - view.current) - view.elapsed
        } else {
            (self.period - view.elapsed).saturating_add(self.fades(view.current, room))
        }
    }
}
