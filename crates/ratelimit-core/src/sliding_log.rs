//! `sliding_log`: exact. At most `quota` in any stretch of one period.
//!
//! The log is a ring of the times at which the last `quota` units were taken, oldest first. Whether `cost` fits is one look: at
//! the `cost`-th oldest time, which must have expired. A ring of `quota` places is all an exact answer needs, and all a key uses.

use crate::meter::Meter;
use crate::receipt::Receipt;
use crate::spec::MAX_LOG;
use crate::state::{log_time, log_word, State};
use crate::time::{span, Micros, Now};

/// Remembers when each unit was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingLog {
    quota: u64,
    period: Micros,
}

/// Where the ring begins, and how many places it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    /// Place of the oldest time.
    head: usize,
    size: usize,
    /// A time up to this has expired.
    horizon: Micros,
    /// How much of the last charge took places that were free: the rest pushed out times of others.
    fitted: usize,
    /// The newest time that it pushed out, expired or not.
    pushed: Micros,
}

impl Ring {
    /// The place of the `n`-th oldest time.
    fn place(&self, n: usize) -> usize {
        (self.head + n) % self.size.max(1)
    }

    fn time<S: State>(&self, state: &S, n: usize) -> Micros {
        log_time(state.time(self.place(n)))
    }

    /// How many of the oldest times have expired: they are in order.
    fn expired<S: State>(&self, state: &S) -> usize {
        let (mut low, mut high) = (0, self.size);
        while low < high {
            let middle = (low + high) / 2;
            if self.time(state, middle) <= self.horizon {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl SlidingLog {
    pub(crate) fn new(quota: u64, period: Micros) -> Self {
        SlidingLog { quota: quota.min(MAX_LOG), period }
    }

    /// How many places of a log the key uses.
    pub fn places(&self) -> usize {
        self.quota as usize
    }

    /// Whether the next change gives the ring another size, and so writes all of it.
    pub(crate) fn resizes<S: State>(&self, state: &S) -> bool {
        let (_, size) = ring(state.words()[0]);
        size != 0 && size != self.places()
    }

    /// Gives a ring the size that the next change would give it.
    pub(crate) fn fit<S: State>(&self, state: &mut S) {
        if self.resizes(state) {
            let ring = self.view(state, Now::at(0));
            let ring = self.resize(state, ring);
            self.store(state, &ring);
        }
    }

    /// When what is taken now will have expired.
    pub(crate) fn expiry(&self, now: Now) -> Micros {
        now.steady.saturating_add(self.period)
    }

    /// Takes over a ring of another size, as a changed quota leaves it: the newest times stay.
    fn resize<S: State>(&self, state: &mut S, old: Ring) -> Ring {
        let new = Ring { head: 0, size: self.places(), ..old };
        let mut newest = [0u64; MAX_LOG as usize];
        let kept = old.size.min(new.size);
        for (n, word) in newest.iter_mut().take(kept).enumerate() {
            *word = state.time(old.place(old.size - kept + n));
        }
        for place in 0..new.size {
            // Untouched places are the oldest.
            let word = (place + kept).checked_sub(new.size).and_then(|n| newest.get(n));
            state.set_time(place, word.copied().unwrap_or(0));
        }
        new
    }

    /// The places that a charge of `cost` writes, as a start and a number: all of them when the ring changes its size.
    pub(crate) fn writes<S: State>(&self, state: &S, cost: u64) -> (usize, usize) {
        let places = self.places();
        if self.resizes(state) {
            return (0, places);
        }
        let (head, _) = ring(state.words()[0]);
        (head, usize::try_from(cost).unwrap_or(places).min(places))
    }
}

/// In the first word: the newest times may lie ahead, because they were booked.
const BOOKED: u64 = 1 << 31;

/// The low half of the first word of a ring that begins at place `head`.
pub(crate) fn ring_word(head: usize, size: usize) -> u64 {
    (size as u64) << 16 | head as u64
}

/// Where the ring begins, and how many places it has. The low half of the first word says so; the high half is left to who
/// stores it.
pub(crate) fn ring(word: u64) -> (usize, usize) {
    ((word & 0xffff) as usize, (word >> 16 & 0x7fff) as usize)
}

/// What the first word says of bookings, to go with another ring.
pub(crate) fn ring_booked(word: u64) -> u64 {
    word & BOOKED
}

impl Meter for SlidingLog {
    type View = Ring;

    fn capacity(&self) -> u64 {
        self.quota
    }

    fn view<S: State>(&self, state: &S, now: Now) -> Ring {
        let (head, size) = ring(state.words()[0]);
        let horizon = now.steady.saturating_sub(self.period);
        // An untouched key has a ring of the right size with nothing in it.
        let size = if size == 0 { self.places() } else { size };
        Ring { head, size, horizon, fitted: 0, pushed: Micros::MIN }
    }

    fn is_ahead<S: State>(&self, state: &S, now: Now) -> bool {
        let ring = self.view(state, now);
        ring.time(state, ring.size.saturating_sub(1)) > now.steady
    }

    fn ahead<S: State>(&self, state: &S, now: Now) -> Micros {
        if state.words()[0] & BOOKED == 0 {
            return 0;
        }
        let ring = self.view(state, now);
        ring.time(state, ring.size.saturating_sub(1)).saturating_sub(now.steady).max(0)
    }

    fn set_booked<S: State>(&self, state: &mut S, _: Now) {
        let [word, second, third] = state.words();
        state.set_words([word | BOOKED, second, third]);
    }

    fn store<S: State>(&self, state: &mut S, view: &Ring) {
        let [word, second, third] = state.words();
        let word = word & !0xffff_ffff | ring_word(view.head, view.size);
        state.set_words([word, second, third]);
    }

    fn admits<S: State>(&self, state: &S, view: &Ring, cost: u64) -> bool {
        if cost == 0 {
            return true;
        }
        if view.size == self.places() {
            return view.time(state, cost as usize - 1) <= view.horizon;
        }
        cost <= self.remaining(state, view)
    }

    fn charge<S: State>(&self, state: &mut S, view: &mut Ring, now: Now, cost: u64) {
        if view.size != self.places() {
            *view = self.resize(state, *view);
        }
        // More than the whole ring cannot be remembered: it is then as full as it gets.
        let cost = usize::try_from(cost).unwrap_or(view.size).min(view.size);
        let fits = cost > 0 && view.time(state, cost - 1) <= view.horizon;
        view.fitted = if fits { cost } else { view.expired(state).min(cost) };
        view.pushed = cost.checked_sub(1).map_or(Micros::MIN, |last| view.time(state, last));
        for n in 0..cost {
            state.set_time(view.place(n), log_word(now.steady));
        }
        view.head = view.place(cost);
    }

    fn refund<S: State>(&self, state: &mut S, view: &mut Ring, _: Now, cost: u64) {
        if view.size != self.places() {
            *view = self.resize(state, *view);
        }
        let used = view.size - view.expired(state);
        let cost = usize::try_from(cost).unwrap_or(used).min(used);
        // The newest go, and their places become the oldest.
        view.head = view.place(view.size - cost);
        for n in 0..cost {
            state.set_time(view.place(n), 0);
        }
    }

    fn receipt<S: State>(&self, _: &S, view: &Ring, now: Now, cost: u64) -> Receipt {
        Receipt::new(now, cost, i128::from(view.pushed), view.fitted as u32, 0)
    }

    fn shortened(&self, receipt: &Receipt, part: u64) -> Receipt {
        let cost = receipt.cost.saturating_sub(part);
        let left = u32::try_from(cost).unwrap_or(u32::MAX);
        Receipt { cost, returned: receipt.returned.min(left), ..*receipt }
    }

    fn merged(&self, one: &Receipt, other: &Receipt) -> Option<Receipt> {
        (one.at.steady == other.at.steady).then(|| Receipt {
            cost: one.cost.saturating_add(other.cost),
            returned: one.returned.saturating_add(other.returned),
            position: one.position.max(other.position),
            ..*one
        })
    }

    fn undo<S: State>(
        &self,
        state: &mut S,
        view: &mut Ring,
        now: Now,
        receipt: &Receipt,
    ) -> Option<u32> {
        if view.size != self.places() {
            return None;
        }
        let (taken, cost) = (receipt.at.steady, receipt.cost.min(u64::from(receipt.returned)));
        let expired = self.view(state, now).expired(state);
        // Usually the newest.
        let mut end = view.size;
        while end > expired && view.time(state, end - 1) > taken {
            end -= 1;
        }
        let mut start = end;
        while start > expired
            && (end - start) as u64 != cost
            && view.time(state, start - 1) == taken
        {
            start -= 1;
        }
        // What a booking pushed out counts again until it has expired, and of several times that is the newest. Otherwise there was
        // nothing but what had expired.
        let ahead = taken > now.steady;
        let pushed = Micros::try_from(receipt.position).ok().filter(|_| ahead);
        let older = |n: &usize| pushed.is_some_and(|pushed| view.time(state, *n) <= pushed);
        let stay = (0..start).take_while(older).count();
        // What is older than the charge moves up, expired or not, for another definition may see that otherwise: its new places are
        // kept for longer than it needs.
        let gone = end - start;
        for n in (stay..start).rev() {
            state.set_time(view.place(n + gone), state.time(view.place(n)));
        }
        for n in stay..stay + gone {
            state.set_time(view.place(n), pushed.map_or(0, log_word));
        }
        (gone > 0).then_some(0)
    }

    fn remaining<S: State>(&self, state: &S, view: &Ring) -> u64 {
        let used = view.size - view.expired(state);
        self.quota.saturating_sub(used as u64)
    }

    fn reset_after<S: State>(&self, state: &S, view: &Ring, now: Now, cost: u64) -> Micros {
        if cost > 0 {
            return self.period;
        }
        let newest = view.time(state, view.size.saturating_sub(1));
        if newest <= view.horizon {
            return 0;
        }
        span(i128::from(newest) + i128::from(self.period) - i128::from(now.steady))
    }

    fn wait<S: State>(&self, state: &S, view: &Ring, now: Now, cost: u64) -> Micros {
        // The time that must expire before so many places are free, counted from the newest.
        let room = self.quota.saturating_sub(cost) as usize;
        let blocking = view.time(state, view.size.saturating_sub(room + 1));
        span(i128::from(blocking) + i128::from(self.period) - i128::from(now.steady))
    }
}
