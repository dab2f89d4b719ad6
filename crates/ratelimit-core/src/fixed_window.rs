//! `fixed_window`: at most `quota` in each window.
//!
//! A window is a stretch of the clock, or begins at a key's first hit. Windows of days and longer follow a calendar.

use alloc::rc::Rc;
use core::cell::Cell;

use crate::calendar::{after, window, Calendar};
use crate::count::{booking_mark, counted, is_marked, split};
use crate::meter::Meter;
use crate::period::Period;
use crate::receipt::Receipt;
use crate::spec::Anchor;
use crate::state::{State, Words};
use crate::time::{span, Micros, Now};

/// Counts in windows.
#[derive(Clone)]
pub struct FixedWindow {
    quota: u64,
    period: Period,
    anchor: Anchor,
    calendar: Rc<dyn Calendar>,
    /// Above the count of a state that is booked under this definition: then the first word is not the window's end but the moment,
    /// on the steady line, since that is how those who booked it wait.
    mark: u64,
    /// The window of the last decision: all keys share it, and it takes a calendar to find.
    current: Cell<(Micros, Micros)>,
}

impl core::fmt::Debug for FixedWindow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let FixedWindow { quota, period, anchor, .. } = self;
        write!(f, "FixedWindow({quota} per {period:?}, {anchor:?})")
    }
}

impl FixedWindow {
    pub(crate) fn new(
        quota: u64,
        period: Period,
        anchor: Anchor,
        calendar: Rc<dyn Calendar>,
    ) -> Self {
        let mark = booking_mark([quota, period.longest().unsigned_abs(), anchor as u64]);
        FixedWindow { quota, period, anchor, calendar, mark, current: Cell::new((1, 0)) }
    }

    /// When the window ends that began at `start`.
    #[cold]
    #[inline(never)]
    fn end_of(&self, start: Micros) -> Micros {
        match self.anchor {
            Anchor::Clock => window(self.period, start, &*self.calendar).1,
            Anchor::FirstHit => self.after(start),
        }
    }

    /// How far ahead a booked state is. Where the wall clock was set or the definition changed it lies in no window any more.
    #[cold]
    #[inline(never)]
    fn booked_ahead<S: State>(&self, state: &S, now: Now) -> Micros {
        let [at, count, start] = state.words();
        if split(count).1 != self.mark {
            return 0;
        }
        let ahead = at.cast_signed().saturating_sub(now.steady).max(0);
        let (start, wall) = (start.cast_signed(), now.plus(ahead).wall);
        if start <= wall && wall < self.end_of(start) {
            ahead
        } else {
            0
        }
    }

    /// The window around `now`: when it began and when it ends, on the wall.
    fn window(&self, now: Micros) -> (Micros, Micros) {
        let mut current = self.current.get();
        if now < current.0 || now >= current.1 {
            current = window(self.period, now, &*self.calendar);
            self.current.set(current);
        }
        current
    }

    /// When a window ends that a hit at `start` began.
    fn after(&self, start: Micros) -> Micros {
        after(self.period, start, &*self.calendar)
    }
}

/// The window that counts now: when it began and ends, and what was taken in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    start: Micros,
    end: Micros,
    count: u64,
}

impl Meter for FixedWindow {
    type View = Count;

    fn capacity(&self) -> u64 {
        self.quota
    }

    fn view<S: State>(&self, state: &S, now: Now) -> Count {
        let [end, count, start] = state.words();
        let (end, start) = (end.cast_signed(), start.cast_signed());
        let end = if is_marked(count) { self.end_of(start) } else { end };
        let (count, _) = split(count);
        // A window that ends later than the current one comes from another definition or from a clock that was set back:
        // what was taken counts here, once.
        let count = if end > now.wall { count } else { 0 };
        let (start, end) = match self.anchor {
            Anchor::Clock => self.window(now.wall),
            // The window that a hit at `start` began. Where an hour comes twice, one that began now may end before it.
            Anchor::FirstHit if count > 0 && start <= now.wall && end == self.after(start) => {
                (start, end)
            }
            Anchor::FirstHit if count > 0 => (now.wall, end.min(self.after(now.wall))),
            Anchor::FirstHit => (now.wall, self.after(now.wall)),
        };
        Count { start, end, count }
    }

    fn is_ahead<S: State>(&self, state: &S, now: Now) -> bool {
        let [_, count, start] = state.words();
        count > 0 && start.cast_signed() > now.wall || is_marked(count)
    }

    #[inline(always)]
    fn ahead<S: State>(&self, state: &S, now: Now) -> Micros {
        if is_marked(state.words()[1]) {
            self.booked_ahead(state, now)
        } else {
            0
        }
    }

    fn set_booked<S: State>(&self, state: &mut S, at: Now) {
        let [_, count, start] = state.words();
        state.set_words([at.steady.cast_unsigned(), count | self.mark, start]);
    }

    fn store<S: State>(&self, state: &mut S, view: &Count) {
        let count = counted(view.count);
        state.set_words([view.end.cast_unsigned(), count, view.start.cast_unsigned()]);
    }

    fn admits<S: State>(&self, _: &S, view: &Count, cost: u64) -> bool {
        view.count.saturating_add(cost) <= self.quota
    }

    fn charge<S: State>(&self, _: &mut S, view: &mut Count, _: Now, cost: u64) {
        view.count = view.count.saturating_add(cost);
    }

    fn refund<S: State>(&self, _: &mut S, view: &mut Count, _: Now, cost: u64) {
        view.count = view.count.saturating_sub(cost);
    }

    fn receipt<S: State>(&self, _: &S, view: &Count, now: Now, cost: u64) -> Receipt {
        Receipt::new(now, cost, i128::from(view.start), 0, 0)
    }

    fn undo<S: State>(
        &self,
        _: &mut S,
        view: &mut Count,
        _: Now,
        receipt: &Receipt,
    ) -> Option<u32> {
        // What was taken in another window counts no more.
        let counts = i128::from(view.start) == receipt.position;
        if counts {
            view.count = view.count.saturating_sub(receipt.cost);
        }
        counts.then_some(0)
    }

    fn remaining<S: State>(&self, _: &S, view: &Count) -> u64 {
        self.quota.saturating_sub(view.count)
    }

    fn reset_after<S: State>(&self, _: &S, view: &Count, now: Now, cost: u64) -> Micros {
        if view.count.saturating_add(cost) == 0 {
            return 0;
        }
        span(i128::from(view.end) - i128::from(now.wall))
    }

    fn wait<S: State>(&self, _: &S, view: &Count, now: Now, _: u64) -> Micros {
        span(i128::from(view.end) - i128::from(now.wall))
    }
}

/// The words of a [`FixedWindow`]'s state, so much later on the steady line: the window itself is on the wall.
pub(crate) fn shifted([end, count, start]: Words, by: Micros) -> Words {
    if !is_marked(count) {
        return [end, count, start];
    }
    [end.cast_signed().saturating_add(by).cast_unsigned(), count, start]
}
