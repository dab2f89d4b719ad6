//! Every algorithm against a model that keeps the list of all grants and reads the answer off the definition in the contract.
//!
//! A model knows only whether a cost fits at a moment. What is left, how long to wait and when a key is as good as new follow
//! from that by trying, so nothing here shares a formula with the code under test.

mod common;

use common::{cost, gap, quota, span, Cost, Key, NOON};
use proptest::prelude::*;
use ratelimit_core::{
    Algorithm, Anchor, Decision, Micros, Now, Period, RateSpec, Reason, Refill, DAY, SECOND,
};

/// What was granted when, oldest first.
type Grants = Vec<(Micros, u64)>;

/// The definition in numbers.
#[derive(Clone, Copy, Debug)]
struct Rate {
    quota: i128,
    period: i128,
    burst: i128,
}

/// Whether a cost fits, after these grants.
type Fits = fn(Rate, &Grants, Micros, u64) -> bool;

fn sum(grants: &Grants, counts: impl Fn(i128) -> bool) -> i128 {
    grants.iter().filter(|(t, _)| counts(i128::from(*t))).map(|(_, c)| i128::from(*c)).sum()
}

/// In every stretch that ends now, no more than the burst and what came back meanwhile (both sides times the period).
fn token_bucket(rate: Rate, grants: &Grants, now: Micros, cost: u64) -> bool {
    let cost = i128::from(cost);
    cost <= rate.burst
        && grants.iter().all(|(start, _)| {
            let start = i128::from(*start);
            let taken = sum(grants, |t| t >= start) + cost;
            taken * rate.period <= rate.burst * rate.period + (i128::from(now) - start) * rate.quota
        })
}

/// Lives through every grant and period end in turn.
fn interval_bucket(rate: Rate, grants: &Grants, now: Micros, cost: u64) -> bool {
    let (mut level, mut next) = (rate.burst, None);
    let mut live_until = |moment: i128, taken: i128| {
        while let Some(end) = next.filter(|end| *end <= moment) {
            level = rate.burst.min(level + rate.quota);
            next = (level < rate.burst).then_some(end + rate.period);
        }
        if taken > 0 && next.is_none() {
            next = Some(moment + rate.period);
        }
        level -= taken;
        level
    };
    for (time, taken) in grants {
        live_until(i128::from(*time), i128::from(*taken));
    }
    live_until(i128::from(now), 0) >= i128::from(cost)
}

fn fixed_window(rate: Rate, grants: &Grants, now: Micros, cost: u64) -> bool {
    let window = |t: i128| t.div_euclid(rate.period);
    let used = sum(grants, |t| window(t) == window(i128::from(now)));
    used + i128::from(cost) <= rate.quota
}

fn first_hit_window(rate: Rate, grants: &Grants, now: Micros, cost: u64) -> bool {
    let mut start = None;
    for (time, _) in grants {
        let time = i128::from(*time);
        if start.is_none_or(|start| start + rate.period <= time) {
            start = Some(time);
        }
    }
    let start = start.filter(|start| start + rate.period > i128::from(now));
    let used = sum(grants, |t| start.is_some_and(|start| t >= start));
    used + i128::from(cost) <= rate.quota
}

/// prev * (1 - elapsed / period) + current + cost <= quota
fn sliding_window(rate: Rate, grants: &Grants, now: Micros, cost: u64) -> bool {
    let window = |t: i128| t.div_euclid(rate.period);
    let now = i128::from(now);
    let previous = sum(grants, |t| window(t) == window(now) - 1);
    let current = sum(grants, |t| window(t) == window(now));
    let elapsed = now.rem_euclid(rate.period);
    previous * (rate.period - elapsed) + (current + i128::from(cost)) * rate.period
        <= rate.quota * rate.period
}

/// An entry exactly a period old has expired.
fn sliding_log(rate: Rate, grants: &Grants, now: Micros, cost: u64) -> bool {
    let used = sum(grants, |t| t > i128::from(now) - rate.period);
    used + i128::from(cost) <= rate.quota
}

/// The smallest of `0..` that holds, where all above hold too.
fn smallest(holds: impl Fn(i64) -> bool) -> i64 {
    if holds(0) {
        return 0;
    }
    let mut high = 1;
    while !holds(high) {
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// The whole answer, by trying; what is allowed is granted. Who comes before the latest grant, which was booked, has to wait for it.
fn answer(fits: Fits, rate: Rate, grants: &mut Grants, now: Micros, cost: u64) -> Decision {
    let capacity = u64::try_from(rate.burst).unwrap();
    let ahead = (grants.last().map_or(now, |(latest, _)| *latest) - now).max(0);
    let at = now + ahead;
    let allowed = cost == 0 || ahead == 0 && fits(rate, grants, now, cost);
    let never = cost > capacity;
    let wait = match (allowed, never) {
        (true, _) => Some(0),
        (_, true) => None,
        _ => Some(ahead + smallest(|w| fits(rate, grants, at + w, cost))),
    };
    if allowed && cost > 0 {
        grants.push((now, cost));
    }
    let refused = smallest(|cost| !fits(rate, grants, now, cost as u64));
    Decision {
        allowed,
        quota: capacity,
        remaining: if ahead > 0 { 0 } else { refused as u64 - 1 },
        retry_after: wait,
        reset_after: ahead + smallest(|w| fits(rate, grants, at + w, capacity)),
        reason: match (allowed, never) {
            (true, _) => None,
            (false, true) => Some(Reason::Never),
            (false, false) => Some(Reason::Rate),
        },
        binding: 0,
    }
}

/// Takes, or books within so many thousandths of the period.
fn agrees(spec: &RateSpec, fits: Fits, start: Micros, calls: &[Call]) {
    let rate = Rate {
        quota: spec.quota.into(),
        period: spec.period.span().unwrap().into(),
        burst: spec.capacity().into(),
    };
    let (mut key, mut grants, mut now) = (Key::new(spec), Grants::new(), start);
    for (thousandths, micros, cost, max_wait) in calls {
        now += gap(spec, *thousandths, *micros);
        let cost = cost.of(spec);
        let expected = answer(fits, rate, &mut grants, now, cost);
        let told = format!("{spec:?}, {cost} at {now}: {grants:?}");
        let Some(max_wait) = max_wait.map(|part| gap(spec, part, 0)) else {
            assert_eq!(key.take(Now::at(now), cost), expected, "{told}");
            continue;
        };
        let booking = key.reserve(Now::at(now), cost, Some(max_wait));
        let wait = expected.retry_after.filter(|wait| *wait <= max_wait);
        assert_eq!(booking.wait, wait, "{told}");
        let then = wait.filter(|wait| *wait > 0).map(|wait| now + wait);
        let expected = then.map_or(expected, |then| answer(fits, rate, &mut grants, then, cost));
        assert_eq!(booking.decision, expected, "{told}");
    }
}

type Call = (u64, Micros, Cost, Option<u64>);

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let gap = prop_oneof![3 => Just(0), 3 => 0..150u64, 1 => 0..1_200u64, 1 => Just(1_000)];
    let max_wait = prop_oneof![2 => Just(None), 1 => (0..4_000u64).prop_map(Some)];
    prop::collection::vec((gap, -2..3i64, cost(), max_wait), 0..25)
}

fn start() -> impl Strategy<Value = Micros> {
    prop_oneof![NOON..NOON + DAY, -SECOND..SECOND]
}

fn any_rate(
    algorithm: Algorithm,
    refill: Refill,
    anchor: Anchor,
    quota: impl Strategy<Value = u64>,
    with_burst: bool,
) -> impl Strategy<Value = RateSpec> {
    // A burst that takes at most some hundred periods to come back: the longest wait must be a number.
    (quota, span(), 1..3_000u64).prop_map(move |(quota, span, burst)| RateSpec {
        algorithm,
        quota,
        period: Period::Span(span),
        burst: with_burst.then(|| (quota * burst / 1_000).clamp(1, ratelimit_core::MAX_QUOTA)),
        refill,
        anchor,
    })
}

macro_rules! oracle {
    ($name:ident, $fits:expr, $spec:expr) => {
        proptest! {
            #![proptest_config(common::cases(150))]
            #[test]
            fn $name(spec in $spec, start in start(), calls in calls()) {
                agrees(&spec, $fits, start, &calls);
            }
        }
    };
}

oracle!(
    a_token_bucket_never_lets_pass_more_than_burst_and_refill_nor_less,
    token_bucket,
    any_rate(Algorithm::TokenBucket, Refill::Continuous, Anchor::Clock, quota(), true)
);
oracle!(
    a_token_bucket_without_a_burst_holds_its_quota,
    token_bucket,
    any_rate(Algorithm::TokenBucket, Refill::Continuous, Anchor::Clock, quota(), false)
);
oracle!(
    an_interval_bucket_refills_at_period_ends,
    interval_bucket,
    any_rate(Algorithm::TokenBucket, Refill::Interval, Anchor::Clock, quota(), true)
);
oracle!(
    a_fixed_window_lets_pass_its_quota,
    fixed_window,
    any_rate(Algorithm::FixedWindow, Refill::Continuous, Anchor::Clock, quota(), false)
);
oracle!(
    a_first_hit_window_lets_pass_its_quota,
    first_hit_window,
    any_rate(Algorithm::FixedWindow, Refill::Continuous, Anchor::FirstHit, quota(), false)
);
oracle!(
    a_sliding_window_follows_its_formula_exactly,
    sliding_window,
    any_rate(Algorithm::SlidingWindow, Refill::Continuous, Anchor::Clock, quota(), false)
);
oracle!(
    a_sliding_log_lets_pass_its_quota_in_any_period,
    sliding_log,
    any_rate(Algorithm::SlidingLog, Refill::Continuous, Anchor::Clock, 1..=1_000u64, false)
);
