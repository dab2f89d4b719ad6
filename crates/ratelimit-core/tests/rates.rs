//! What each way of counting admits: rules 1, 4, 6, 7 and 12 of the contract, by example and under greedy demand.

mod common;

use common::{
    at, bucket, every_algorithm, first_hit, fixed, interval_bucket, log, quota, sliding, span, Key,
    NOON,
};
use proptest::prelude::*;
use ratelimit_core::{
    Algorithm, Micros, Period, RateSpec, DAY, HOUR, MAX_QUOTA, MILLISECOND, MINUTE, SECOND,
};

/// The start of a full hour.
const O_CLOCK: Micros = NOON - NOON % HOUR;

#[test]
fn rule_1_a_rate_faster_than_one_per_millisecond_keeps_its_average() {
    // Three per 2 ms: one comes back every 666 2/3 microseconds.
    let mut key = Key::new(&bucket("3 per 2 ms burst 2"));
    key.drain(at(NOON));
    let mut now = at(NOON);
    for _ in 0..3_000 {
        now = now.plus(key.take(now, 1).retry_after.unwrap());
        assert!(key.take(now, 1).allowed);
    }
    assert_eq!(now.steady, NOON + 2 * SECOND);
}

#[test]
fn rule_1_the_fastest_rate_keeps_its_average() {
    let spec = bucket("1000000000000 per ms");
    let mut key = Key::new(&spec);
    assert_eq!(key.take_at_most(at(NOON), MAX_QUOTA), MAX_QUOTA);
    for micros in 1..=1_000 {
        assert_eq!(key.take_at_most(at(NOON + micros), MAX_QUOTA), MAX_QUOTA / 1_000);
    }
}

#[test]
fn rule_1_the_slowest_rate_keeps_its_average() {
    let spec = bucket("1 per 365000 days");
    let mut key = Key::new(&spec);
    for n in 0..200 {
        let now = at(n * 365_000 * DAY);
        assert!(key.take(now, 1).allowed);
        assert_eq!(key.take(now, 1).retry_after, Some(365_000 * DAY));
    }
}

#[test]
fn rule_1_a_rate_that_divides_nothing_evenly_is_not_rounded() {
    // Seven a year: one every 4505142857142.857... microseconds.
    let mut key = Key::new(&bucket("7 per 365 days burst 2"));
    key.drain(at(NOON));
    let mut now = at(NOON);
    for _ in 0..7_000 {
        now = now.plus(key.take(now, 1).retry_after.unwrap());
        assert!(key.take(now, 1).allowed);
    }
    assert_eq!(now.steady, NOON + 1_000 * 365 * DAY);
}

#[test]
fn rule_4_a_bucket_starts_full_at_its_burst() {
    for spec in [bucket("10/minute burst 25"), interval_bucket("10/minute burst 25")] {
        assert_eq!(Key::new(&spec).drain(at(NOON)), 25);
    }
    for spec in [bucket("10/minute"), interval_bucket("10/minute")] {
        assert_eq!(Key::new(&spec).drain(at(NOON)), 10);
    }
}

#[test]
fn rule_4_a_bucket_refills_continuously() {
    let mut key = Key::new(&bucket("10/minute burst 25"));
    key.drain(at(NOON));
    assert_eq!(key.drain(at(NOON + 6 * SECOND - 1)), 0);
    assert_eq!(key.drain(at(NOON + 6 * SECOND)), 1);
    assert_eq!(key.drain(at(NOON + MINUTE)), 9);
    assert_eq!(key.drain(at(NOON + HOUR)), 25);
}

#[test]
fn rule_4_a_burst_may_be_smaller_than_the_quota() {
    let mut key = Key::new(&bucket("60/minute burst 5"));
    assert_eq!(key.drain(at(NOON)), 5);
    assert_eq!(key.drain(at(NOON + 3 * SECOND)), 3);
    assert_eq!(key.drain(at(NOON + MINUTE)), 5);
}

#[test]
fn rule_4_an_interval_bucket_adds_whole_quotas_at_period_ends() {
    let mut key = Key::new(&interval_bucket("10/minute burst 25"));
    key.drain(at(NOON));
    assert_eq!(key.drain(at(NOON + MINUTE - 1)), 0);
    assert_eq!(key.drain(at(NOON + MINUTE)), 10);
    assert_eq!(key.drain(at(NOON + 3 * MINUTE)), 20);
}

#[test]
fn rule_4_the_period_runs_from_the_take_that_left_the_bucket_no_longer_full() {
    let mut key = Key::new(&interval_bucket("10/minute"));
    key.take(at(NOON), 4);
    // Full again at NOON + 1 minute; what is taken later starts a period of its own.
    let later = at(NOON + MINUTE + 20 * SECOND);
    key.take(later, 10);
    assert_eq!(key.take(later, 1).retry_after, Some(MINUTE));
}

#[test]
fn rule_4_a_partial_period_survives_later_takes() {
    let mut key = Key::new(&interval_bucket("10/minute burst 30"));
    key.take(at(NOON), 25);
    key.take(at(NOON + 50 * SECOND), 5);
    assert_eq!(key.take(at(NOON + 50 * SECOND), 1).retry_after, Some(10 * SECOND));
    key.take(at(NOON + MINUTE), 10);
    assert_eq!(key.take(at(NOON + 90 * SECOND), 1).retry_after, Some(30 * SECOND));
}

#[test]
fn rule_5_windows_of_the_clock_begin_at_multiples_of_the_period() {
    let mut key = Key::new(&fixed("3 per 10 minutes"));
    assert_eq!(key.drain(at(O_CLOCK + 9 * MINUTE)), 3);
    assert_eq!(key.take(at(O_CLOCK + 9 * MINUTE), 1).retry_after, Some(MINUTE));
    assert_eq!(key.drain(at(O_CLOCK + 10 * MINUTE)), 3);
}

#[test]
fn rule_5_a_first_hit_begins_a_window() {
    let mut key = Key::new(&first_hit("3 per 10 minutes"));
    assert!(key.take(at(O_CLOCK + 9 * MINUTE), 1).allowed);
    assert_eq!(key.drain(at(O_CLOCK + 12 * MINUTE)), 2);
    assert_eq!(key.take(at(O_CLOCK + 12 * MINUTE), 1).retry_after, Some(7 * MINUTE));
    // The next window begins with the next hit, not with the end of the last.
    assert_eq!(key.drain(at(O_CLOCK + 25 * MINUTE)), 3);
    assert_eq!(key.take(at(O_CLOCK + 25 * MINUTE), 1).retry_after, Some(10 * MINUTE));
}

#[test]
fn rule_5_cost_0_begins_no_window() {
    let mut key = Key::new(&first_hit("3 per 10 minutes"));
    key.take(at(O_CLOCK), 0);
    key.take(at(O_CLOCK + 5 * MINUTE), 3);
    assert_eq!(key.take(at(O_CLOCK + 5 * MINUTE), 1).retry_after, Some(10 * MINUTE));
}

#[test]
fn rule_6_the_last_window_fades_exactly() {
    let mut key = Key::new(&sliding("10/minute"));
    let minute = at(O_CLOCK);
    key.take(minute.plus(50 * SECOND), 10);
    // 10 * (1 - elapsed / 60 s) + 1 <= 10, from 6 s on.
    assert_eq!(key.take(minute.plus(59 * SECOND), 1).retry_after, Some(7 * SECOND));
    assert!(!key.peek(minute.plus(66 * SECOND - 1), 1).allowed);
    assert!(key.take(minute.plus(66 * SECOND), 1).allowed);
    assert_eq!(key.remaining(minute.plus(90 * SECOND)), 4);
}

#[test]
fn rule_6_a_sliding_window_is_not_rounded() {
    // prev * (1 - elapsed / period) + current + cost <= quota, where no factor divides another.
    let mut key = Key::new(&sliding("7 per 11 ms"));
    let start = at(11 * MILLISECOND * 1_000);
    key.take(start, 7);
    // 7 * (11000 - elapsed) + 3 * 11000 <= 7 * 11000: elapsed >= 4714.28...
    let later = start.plus(11 * MILLISECOND);
    assert_eq!(key.take(later, 3).retry_after, Some(4_715));
}

#[test]
fn rule_7_an_entry_exactly_a_period_old_has_expired() {
    let mut key = Key::new(&log("2/minute"));
    key.take(at(NOON), 1);
    key.take(at(NOON + SECOND), 1);
    assert_eq!(key.remaining(at(NOON + MINUTE - 1)), 0);
    assert_eq!(key.remaining(at(NOON + MINUTE)), 1);
    assert_eq!(key.drain(at(NOON + MINUTE + SECOND)), 2);
}

#[test]
fn rule_7_a_refund_takes_back_the_newest_entries() {
    let mut key = Key::new(&log("3/minute"));
    key.take(at(NOON), 1);
    key.take(at(NOON + 30 * SECOND), 2);
    key.refund(at(NOON + 40 * SECOND), 2);
    assert_eq!(key.remaining(at(NOON + 40 * SECOND)), 2);
    assert_eq!(key.remaining(at(NOON + MINUTE)), 3);
}

/// Calls a key at these moments with as much as passes, and says what passed when.
fn greedy(spec: &RateSpec, start: Micros, gaps: &[Micros]) -> Vec<(Micros, u128)> {
    let (mut key, mut now) = (Key::new(spec), at(start));
    gaps.iter()
        .map(|gap| {
            now = now.plus(*gap);
            (now.steady, u128::from(key.take_at_most(now, MAX_QUOTA)))
        })
        .collect()
}

/// The most that passed in any stretch of less than `length`.
fn most(passed: &[(Micros, u128)], length: Micros) -> u128 {
    let from = |n: usize| {
        let start = passed[n].0;
        passed[n..].iter().take_while(|(t, _)| t - start < length).map(|(_, c)| c).sum()
    };
    (0..passed.len()).map(from).max().unwrap_or(0)
}

fn gaps(spec: &RateSpec, thousandths: &[i64]) -> Vec<Micros> {
    thousandths
        .iter()
        .map(|n| (i128::from(spec.period.longest()) * i128::from(*n) / 1_000) as i64)
        .collect()
}

fn any_rate() -> impl Strategy<Value = (u64, Micros)> {
    (quota(), span())
}

fn with((quota, span): (u64, Micros), of: RateSpec) -> RateSpec {
    let quota = if of.algorithm == Algorithm::SlidingLog { 1 + quota % 1_000 } else { quota };
    RateSpec { quota, period: Period::Span(span), ..of }
}

proptest! {
    #![proptest_config(common::cases(200))]

    #[test]
    fn rule_12_no_stretch_of_a_period_has_more_than_the_definition_allows(
        rate in any_rate(), start in NOON..NOON + DAY, parts in prop::collection::vec(0..400i64, 1..40)
    ) {
        for (of, quotas) in every_algorithm("1/s").into_iter().zip([2, 2, 2, 2, 2, 1]) {
            let spec = with(rate, of);
            let passed = greedy(&spec, start, &gaps(&spec, &parts));
            // The bursts at both ends of a stretch, but for the log, which is exact.
            prop_assert!(most(&passed, rate.1) <= quotas * u128::from(spec.quota), "{spec:?}");
        }
    }

    #[test]
    fn rule_12_under_demand_the_average_is_kept(
        rate in any_rate(), start in NOON..NOON + DAY, parts in prop::collection::vec(1..400i64, 1..60)
    ) {
        // A sliding window may let pass less, by its formula: at worst one of quota 1 every second period.
        for of in every_algorithm("1/s").into_iter().filter(|of| of.algorithm != Algorithm::SlidingWindow) {
            let spec = with(rate, of);
            let gaps = gaps(&spec, &parts);
            let passed: u128 = greedy(&spec, start, &gaps).iter().map(|(_, c)| c).sum();
            let elapsed = gaps[1..].iter().map(|gap| i128::from(*gap)).sum::<i128>() as u128;
            let periods = elapsed / rate.1.unsigned_abs() as u128;
            // A window, or a period of a bucket, that the last call did not see the end of; a call comes up to 0.4 periods late.
            let least = u128::from(spec.quota) * (periods * 10 / 14);
            prop_assert!(passed >= least, "{spec:?}: {passed} of {least}");
        }
    }

    #[test]
    fn rule_12_a_bucket_that_is_never_full_gives_exactly_its_refill(
        rate in any_rate(), start in NOON..NOON + DAY, parts in prop::collection::vec(0..999i64, 1..40)
    ) {
        let rate = (rate.0.min(MAX_QUOTA / 2), rate.1);
        let spec = RateSpec { burst: Some(2 * rate.0), ..with(rate, bucket("1/s")) };
        let gaps = gaps(&spec, &parts);
        let passed: u128 = greedy(&spec, start, &gaps).iter().map(|(_, c)| c).sum();
        let elapsed = gaps[1..].iter().map(|gap| i128::from(*gap)).sum::<i128>() as u128;
        prop_assert_eq!(passed, u128::from(spec.capacity()) + elapsed * u128::from(spec.quota) / rate.1.unsigned_abs() as u128);
    }
}
