//! What the definitions of the algorithms allow, read off a list of what was granted.

use ratelimit_core::{Algorithm, Anchor, Period, RateSpec, Refill};

/// What was granted was allowed, whatever else came and was undone: when and how much, in any order.
pub fn keeps_to_the_definition(spec: &RateSpec, mut grants: Vec<(i128, i128)>) {
    // Weeks do not begin with 1970.
    let clock = spec.algorithm == Algorithm::FixedWindow && spec.anchor == Anchor::Clock;
    let weeks = clock && matches!(spec.period, Period::Weeks(_));
    let Some(period) = spec.period.span().filter(|_| !weeks) else { return };
    let (period, quota) = (i128::from(period), i128::from(spec.quota));
    let burst = i128::from(spec.capacity());
    grants.sort_unstable();
    let taken = |counts: &dyn Fn(i128) -> bool| -> i128 {
        grants.iter().filter(|(time, _)| counts(*time)).map(|(_, cost)| cost).sum()
    };
    let window = |time: i128| time.div_euclid(period);
    for (n, (end, _)) in grants.iter().enumerate() {
        let most = match (spec.algorithm, spec.refill, spec.anchor) {
            (Algorithm::TokenBucket, refill, _) => {
                for (start, _) in &grants[..=n] {
                    let sum = taken(&|time| time >= *start && time <= *end);
                    // At most one period end more than whole periods fit.
                    let back = match refill {
                        Refill::Continuous => (end - start) * quota,
                        Refill::Interval => ((end - start) / period + 1) * quota * period,
                    };
                    assert!(sum * period <= burst * period + back, "{start} to {end}: {grants:?}");
                }
                continue;
            }
            (Algorithm::FixedWindow, _, Anchor::Clock) => {
                (taken(&|time| window(time) == window(*end)), quota)
            }
            // A period meets two windows at most.
            (Algorithm::FixedWindow, _, Anchor::FirstHit) => {
                (taken(&|time| time > end - period && time <= *end), 2 * quota)
            }
            (Algorithm::SlidingLog, ..) => {
                (taken(&|time| time > end - period && time <= *end), quota)
            }
            (Algorithm::SlidingWindow, ..) => {
                let previous = taken(&|time| window(time) == window(*end) - 1);
                let current = taken(&|time| window(time) == window(*end) && time <= *end);
                let left = period - end.rem_euclid(period);
                (previous * left + current * period, quota * period)
            }
        };
        assert!(most.0 <= most.1, "{most:?} at {end}: {spec:?} {grants:?}");
    }
}
