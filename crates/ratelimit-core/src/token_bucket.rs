//! `token_bucket`: a bucket of `burst` tokens that refills `quota` per `period`.
//!
//! Continuous refill is the generic cell rate algorithm (GCRA) of ITU-T I.371: one number, the theoretical arrival time (TAT), at
//! which the bucket would be full again. It is kept in fractions of a microsecond so fine that one token is a whole number of
//! them, so no rate is rounded, however fast or slow.

use crate::meter::Meter;
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
}

/// A mark's ticks: quotas, and so ticks, are below 2^40.
const TICKS: u64 = (1 << 40) - 1;

/// Some bits that tell one definition from another, but for one time in 2^24.
fn mark_of(parts: [u64; 3]) -> u64 {
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
        TokenBucket { burst, ticks, per_token, mark: ticks | mark_of([ticks, per_token, burst]) }
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
}

impl Meter for TokenBucket {
    type View = Level;

    fn capacity(&self) -> u64 {
        self.burst
    }

    #[inline(always)]
    fn view<S: State>(&self, state: &S, now: Now) -> Level {
        let [low, high, mark] = state.words();
        let tat = (u128::from(low) | u128::from(high) << 64).cast_signed();
        let now = i128::from(now.steady) * i128::from(self.ticks);
        let used = if mark == self.mark {
            tat.saturating_sub(now).max(0)
        } else if mark == 0 {
            0
        } else {
            // Another definition's time: kept, but what is more than a whole bucket of this one leaves it empty, not worse.
            let tat = rescale(tat, mark & TICKS, self.ticks);
            tat.saturating_sub(now).clamp(0, self.cost(self.burst))
        };
        Level { now, used }
    }

    #[inline(always)]
    fn store<S: State>(&self, state: &mut S, view: &Level) {
        let tat = view.now.saturating_add(view.used).cast_unsigned();
        let words: Words = [tat as u64, (tat >> 64) as u64, self.mark];
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

    fn refund<S: State>(&self, _: &mut S, view: &mut Level, _: Now, cost: u64) {
        view.used = view.used.saturating_sub(self.cost(cost)).max(0);
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

/// The same instant in other ticks, rounded up: a definition that changes must not give anything back.
fn rescale(tat: i128, from: u64, to: u64) -> i128 {
    let (from, to) = (i128::from(from.max(1)), i128::from(to));
    let part = div_ceil(tat.rem_euclid(from).saturating_mul(to), from);
    tat.div_euclid(from).saturating_mul(to).saturating_add(part)
}

/// A bucket that refills by whole quotas, at the ends of periods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalBucket {
    quota: u64,
    burst: u64,
    period: Micros,
    /// Something to know this definition by.
    mark: u64,
}

impl IntervalBucket {
    /// `quota` tokens come back at the end of every `period`, counted from the take that left the bucket no longer full.
    pub(crate) fn new(quota: u64, period: Micros, burst: u64) -> Self {
        let mark = mark_of([quota, burst, period.unsigned_abs()]);
        IntervalBucket { quota, burst, period, mark }
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
}

impl Meter for IntervalBucket {
    type View = Missing;

    fn capacity(&self) -> u64 {
        self.burst
    }

    #[inline(always)]
    fn view<S: State>(&self, state: &S, now: Now) -> Missing {
        let [used, since, mark] = state.words();
        // What is more than a whole bucket of another definition leaves this one empty, not worse.
        let used = if mark == self.mark { used } else { used.min(self.burst) };
        // What comes from the future has just begun.
        let since = since.cast_signed().min(now.steady);
        let periods = now.steady.abs_diff(since) / self.period.unsigned_abs();
        let used = used.saturating_sub(periods.saturating_mul(self.quota));
        if used == 0 {
            return Missing { used: 0, since: now.steady };
        }
        let since =
            since.saturating_add_unsigned(periods.saturating_mul(self.period.unsigned_abs()));
        Missing { used, since }
    }

    fn is_ahead<S: State>(&self, state: &S, now: Now) -> bool {
        let [used, since, _] = state.words();
        used > 0 && since.cast_signed() > now.steady
    }

    #[inline(always)]
    fn store<S: State>(&self, state: &mut S, view: &Missing) {
        state.set_words([view.used, view.since.cast_unsigned(), self.mark]);
    }

    #[inline(always)]
    fn admits<S: State>(&self, _: &S, view: &Missing, cost: u64) -> bool {
        view.used.saturating_add(cost) <= self.burst
    }

    #[inline(always)]
    fn charge<S: State>(&self, _: &mut S, view: &mut Missing, _: Now, cost: u64) {
        view.used = view.used.saturating_add(cost);
    }

    fn refund<S: State>(&self, _: &mut S, view: &mut Missing, _: Now, cost: u64) {
        view.used = view.used.saturating_sub(cost);
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
