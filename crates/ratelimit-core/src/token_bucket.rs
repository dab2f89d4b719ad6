//! `token_bucket`: a bucket of `burst` tokens that refills `quota` per `period`.
//!
//! Continuous refill is the generic cell rate algorithm (GCRA) of ITU-T I.371: one number, the theoretical arrival time (TAT), at
//! which the bucket would be full again. It is kept in fractions of a microsecond so fine that one token is a whole number of
//! them, so no rate is rounded, however fast or slow.
//!
//! To undo a take, think of the bucket as a queue whose head is served all the time: a take is a job that ends when the arrival
//! time says. What has been served cannot be given back, because others were let in for it; what has not, can. A job moves up
//! when one before it is undone, so the bucket also counts how much was ever given back. The count may take in jobs that were
//! behind: then what could be served since the take bounds the loss. A little less may be given back than could be, never more.
//!
//! Jobs that are booked do not move up: somebody sleeps until a moment that was told. Until they are over, only the last job of all
//! is given back, and who comes before them finds the bucket overdrawn.

use crate::meter::Meter;
use crate::receipt::Receipt;
use crate::state::{State, Words};
use crate::time::{div_ceil, span, Micros, Now};

/// A bucket that refills all the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    burst: u64,
    /// Ticks in a microsecond, and ticks that one token takes to come back; without a common divisor.
    ticks: u64,
    per_token: u64,
    /// The ticks, and above them something to know this definition by.
    mark: u64,
    /// In such steps the bucket counts, in ticks, what is given back.
    step: u64,
    /// What is taken within so much time need not be told apart: a power of two of microseconds.
    blur: u32,
}

/// How many steps the whole bucket is counted in, as a power of two.
pub(crate) const STEPS: u32 = 16;
/// Steps are counted up to this, and then from 0 on.
pub(crate) const RETURNED: u64 = (1 << 22) - 1;
/// Where an arrival time's higher word has the count.
const RETURNED_SHIFT: u32 = 42;

/// An arrival time and the count, as two words.
fn pack(tat: i128, returned: u64) -> [u64; 2] {
    const LONGEST: i128 = 1 << (64 + RETURNED_SHIFT - 1);
    let tat = tat.clamp(-LONGEST, LONGEST - 1).cast_unsigned();
    let high = (tat >> 64) as u64 & ((1 << RETURNED_SHIFT) - 1);
    [tat as u64, high | returned << RETURNED_SHIFT]
}

/// What [`pack`] packed.
#[inline(always)]
fn unpack(low: u64, high: u64) -> (i128, u64) {
    let signed = (high << (64 - RETURNED_SHIFT)).cast_signed() >> (64 - RETURNED_SHIFT);
    (i128::from(signed) << 64 | i128::from(low), high >> RETURNED_SHIFT)
}

/// Adds to a count of steps, and says how many. When it begins anew, older receipts could be misread: they are made worthless.
pub(crate) fn add_steps<S: State>(state: &mut S, returned: &mut u64, steps: u128) -> u32 {
    let sum = u128::from(*returned) + steps;
    if sum > u128::from(RETURNED) {
        state.void_receipts();
    }
    *returned = sum as u64 & RETURNED;
    (steps as u64 & RETURNED) as u32
}

/// How many steps were given back since a receipt was written.
pub(crate) fn steps_since(returned: u64, receipt: &Receipt) -> i128 {
    i128::from(returned.wrapping_sub(u64::from(receipt.returned)) & RETURNED)
}

/// In the mark of a continuous bucket's state: something is booked. A take that fits finds that over, and writes the mark without.
const BOOKED: u64 = 1 << 63;
/// In a receipt: it is that of a booking, and `since` says from when on without it the bucket would have been full.
const BOOKING: u32 = 1 << 31;

/// What a receipt says was given back before, so many steps later.
pub(crate) fn later(returned: u32, steps: u32) -> u32 {
    let count = RETURNED as u32;
    returned & BOOKING | returned.wrapping_add(steps) & count
}

/// What a receipt says of the latest part of what was taken: it has nothing before it.
pub(crate) fn of_part(returned: u32) -> u32 {
    returned & !BOOKING
}

/// A mark's ticks: quotas, and so ticks, are below 2^40.
pub(crate) const TICKS: u64 = (1 << 40) - 1;

/// Some bits that tell one definition from another, but for one time in 2^24.
pub(crate) fn mark_of(parts: [u64; 3]) -> u64 {
    // The mixing step of SplitMix64 (Steele, Lea and Flood, 2014).
    let mix = |hash: u64, part: u64| {
        let hash = (hash ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
    };
    parts.into_iter().fold(0, mix) & !TICKS
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

impl TokenBucket {
    /// `quota` tokens come back in every `period`; `burst` fit.
    pub(crate) fn new(quota: u64, period: Micros, burst: u64) -> Self {
        let period = period.unsigned_abs();
        let divisor = gcd(quota, period).max(1);
        // Quota 0 denies before any of this is looked at.
        let (ticks, per_token) = ((quota / divisor).max(1), period / divisor);
        let mark = ticks | mark_of([ticks, per_token, burst]) & !BOOKED;
        let whole = u128::from(burst) * u128::from(per_token);
        // A bucket of 10^12 tokens that takes 1000 years to fill is 2^95 ticks: their steps would not fit, but longer ones do
        // nothing but give less back.
        let step = u64::try_from(whole >> STEPS).unwrap_or(u64::MAX).max(1);
        let blur = blur(whole / u128::from(ticks));
        TokenBucket { burst, ticks, per_token, mark, step, blur }
    }

    /// Empties the bucket less, and counts it.
    fn give_back<S: State>(&self, state: &mut S, view: &mut Level, ticks: i128) -> u32 {
        let ticks = ticks.min(view.used);
        view.used -= ticks;
        let steps = ticks.cast_unsigned().div_ceil(u128::from(self.step));
        add_steps(state, &mut view.returned, steps)
    }

    /// What is missing at `now` by an arrival time under another mark.
    #[cold]
    #[inline(never)]
    fn used_under(&self, mark: u64, tat: i128, now: i128) -> i128 {
        if mark == 0 {
            0
        } else if mark & !BOOKED == self.mark {
            tat.saturating_sub(now).max(0)
        } else {
            // Another definition's time: kept, but what is more than a whole bucket of this one leaves it empty, not worse.
            let tat = rescale(tat, mark & TICKS, self.ticks);
            tat.saturating_sub(now).clamp(0, self.cost(self.burst))
        }
    }

    /// Gives back the last job that ends at `end`; `None` if it is not the last. Nothing moves up for that, so nothing is counted.
    fn cancel(&self, view: &mut Level, receipt: &Receipt, end: i128) -> Option<u32> {
        if end != view.now.saturating_add(view.used) {
            return None;
        }
        let begin = end.saturating_sub(self.cost(receipt.cost));
        let idle = i128::from(receipt.since) * i128::from(self.ticks);
        let begin = if receipt.returned & BOOKING != 0 { begin.min(idle) } else { begin };
        view.used = begin.saturating_sub(view.now).clamp(0, view.used);
        Some(0)
    }

    #[inline(always)]
    fn cost(&self, cost: u64) -> i128 {
        i128::from(cost).saturating_mul(i128::from(self.per_token))
    }

    #[inline(always)]
    fn micros(&self, ticks: i128) -> Micros {
        // The usual case fits 64 bits, where a division is several times cheaper.
        match u64::try_from(ticks) {
            Ok(ticks) => span(i128::from(ticks.div_ceil(self.ticks))),
            Err(_) => span(div_ceil(ticks, i128::from(self.ticks))),
        }
    }
}

/// A bucket at a moment, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    now: i128,
    /// What is missing to a full bucket.
    used: i128,
    /// How many steps were ever given back.
    returned: u64,
}

impl Meter for TokenBucket {
    type View = Level;

    fn capacity(&self) -> u64 {
        self.burst
    }

    #[inline(always)]
    fn view<S: State>(&self, state: &S, now: Now) -> Level {
        let [low, high, mark] = state.words();
        let (tat, returned) = unpack(low, high);
        let now = i128::from(now.steady) * i128::from(self.ticks);
        let used = if mark == self.mark {
            tat.saturating_sub(now).max(0)
        } else {
            self.used_under(mark, tat, now)
        };
        Level { now, used, returned }
    }

    fn is_booked<S: State>(&self, state: &S, now: Now) -> bool {
        let mark = state.words()[2];
        mark & BOOKED != 0 && mark & !BOOKED == self.mark && self.view(state, now).used > 0
    }

    fn set_booked<S: State>(&self, state: &mut S, _: Now) {
        let [low, high, mark] = state.words();
        state.set_words([low, high, mark | BOOKED]);
    }

    #[inline(always)]
    fn take_over<S: State>(&self, state: &mut S, now: Now) {
        // Its own time stays what it is.
        if state.words()[2] & !BOOKED != self.mark {
            let view = self.view(state, now);
            self.store(state, &view);
        }
    }

    fn booked(&self, receipt: Receipt, fresh: Micros) -> Receipt {
        Receipt { since: fresh, returned: receipt.returned | BOOKING, ..receipt }
    }

    #[inline(always)]
    fn store<S: State>(&self, state: &mut S, view: &Level) {
        let [low, high] = pack(view.now.saturating_add(view.used), view.returned);
        let words: Words = [low, high, self.mark];
        state.set_words(words);
    }

    #[inline(always)]
    fn admits<S: State>(&self, _: &S, view: &Level, cost: u64) -> bool {
        view.used.saturating_add(self.cost(cost)) <= self.cost(self.burst)
    }

    #[inline(always)]
    fn charge<S: State>(&self, _: &mut S, view: &mut Level, _: Now, cost: u64) {
        view.used = view.used.saturating_add(self.cost(cost));
    }

    fn refund<S: State>(&self, state: &mut S, view: &mut Level, _: Now, cost: u64) {
        self.give_back(state, view, self.cost(cost));
    }

    #[inline(always)]
    fn receipt<S: State>(&self, _: &S, view: &Level, now: Now, cost: u64) -> Receipt {
        let position = view.now.saturating_add(view.used);
        Receipt::new(now, cost, position, view.returned as u32, (self.mark >> 32) as u32)
    }

    fn undo<S: State>(
        &self,
        state: &mut S,
        view: &mut Level,
        now: Now,
        receipt: &Receipt,
    ) -> Option<u32> {
        let mark = state.words()[2] & !BOOKED;
        if mark != self.mark || receipt.mark != (self.mark >> 32) as u32 {
            return None;
        }
        let (cost, moved) = (self.cost(receipt.cost), steps_since(view.returned, receipt));
        let end = receipt.position.saturating_sub(moved * i128::from(self.step));
        if self.is_booked(state, now) {
            return self.cancel(view, receipt, end);
        }
        // No more can have been served than there was time for, wherever it stood.
        let since = i128::from(receipt.since) * i128::from(self.ticks);
        let unserved = cost.saturating_sub(view.now.saturating_sub(since).max(0));
        let left = end.saturating_sub(view.now).max(unserved);
        Some(self.give_back(state, view, left.clamp(0, cost)))
    }

    fn shortened(&self, receipt: &Receipt, part: u64) -> Receipt {
        let position = receipt.position.saturating_sub(self.cost(part));
        Receipt { cost: receipt.cost.saturating_sub(part), position, ..*receipt }
    }

    #[inline(always)]
    fn merged(&self, one: &Receipt, other: &Receipt) -> Option<Receipt> {
        let together = (one.at.steady ^ other.at.steady) >> self.blur == 0;
        if together && (one.returned | other.returned) & BOOKING == 0 {
            self.squeezed(one, other)
        } else {
            None
        }
    }

    #[inline(always)]
    fn squeezed(&self, one: &Receipt, other: &Receipt) -> Option<Receipt> {
        let position = one.position.saturating_add(self.cost(other.cost));
        let cost = one.cost.saturating_add(other.cost);
        Some(Receipt { at: other.at, cost, position, returned: of_part(one.returned), ..*one })
    }

    fn remaining<S: State>(&self, _: &S, view: &Level) -> u64 {
        let free = (self.cost(self.burst) - view.used).max(0).cast_unsigned();
        match u64::try_from(free) {
            Ok(free) => free / self.per_token,
            Err(_) => u64::try_from(free / u128::from(self.per_token)).unwrap_or(u64::MAX),
        }
    }

    #[inline(always)]
    fn reset_after<S: State>(&self, _: &S, view: &Level, _: Now, cost: u64) -> Micros {
        self.micros(view.used.saturating_add(self.cost(cost)))
    }

    fn wait<S: State>(&self, _: &S, view: &Level, _: Now, cost: u64) -> Micros {
        self.micros(view.used.saturating_add(self.cost(cost)).saturating_sub(self.cost(self.burst)))
    }
}

/// A thousandth of the time in which a bucket fills: what is taken within it need not be told apart.
fn blur(fills: u128) -> u32 {
    fills.checked_ilog2().map_or(0, |power| power.saturating_sub(10).min(62))
}

/// The words of a [`TokenBucket`]'s state, so much later.
pub(crate) fn shifted([low, high, mark]: Words, by: Micros) -> Words {
    let (tat, returned) = unpack(low, high);
    let ticks = i128::from(mark & TICKS);
    let [low, high] = pack(tat.saturating_add(ticks * i128::from(by)), returned);
    [low, high, mark]
}

/// The same instant in other ticks, rounded up: a definition that changes must not give anything back.
fn rescale(tat: i128, from: u64, to: u64) -> i128 {
    let (from, to) = (i128::from(from.max(1)), i128::from(to));
    let part = div_ceil(tat.rem_euclid(from).saturating_mul(to), from);
    tat.div_euclid(from).saturating_mul(to).saturating_add(part)
}
