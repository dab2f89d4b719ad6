//! What a key has used outlives a change of its definition (section 1.2), and steps of the machine's clock (rule 10).

mod common;

use common::{
    any_spec, at, bucket, every_algorithm, first_hit, fixed, interval_bucket, log, refused_cost,
    sliding, span, used_key, Key, NOON,
};
use proptest::prelude::*;
use ratelimit_core::{Algorithm, Micros, Now, Period, RateSpec, HOUR, MINUTE, SECOND};

/// The start of a full hour.
const O_CLOCK: Micros = NOON - NOON % HOUR;

#[test]
fn another_quota_keeps_what_was_used() {
    let [from, more, less] = ["10/hour", "15/hour", "5/hour"].map(every_algorithm);
    // A continuous bucket keeps its TAT instead: see below.
    for ((from, more), less) in from.into_iter().zip(more).zip(less).skip(1) {
        let mut key = Key::new(&from);
        key.take(at(O_CLOCK), 8);
        let key = key.under(&more);
        assert_eq!(key.remaining(at(O_CLOCK)), 7, "{more:?}");
        assert_eq!(key.under(&less).remaining(at(O_CLOCK)), 0, "{less:?}");
    }
}

#[test]
fn another_period_keeps_what_was_used() {
    for (from, to) in [("10/hour", "10/minute"), ("10/minute", "10/hour")] {
        let pairs = every_algorithm(from).into_iter().zip(every_algorithm(to));
        for (from, to) in pairs.skip(1) {
            // Not the first minute of the hour, so that the windows of both begin and end apart.
            let now = at(O_CLOCK + 20 * MINUTE);
            let mut key = Key::new(&from);
            key.take(now, 8);
            assert_eq!(key.under(&to).remaining(now.plus(SECOND)), 2, "{from:?} to {to:?}");
        }
    }
}

#[test]
fn a_log_keeps_the_newest_times() {
    let mut key = Key::new(&log("4/minute"));
    for second in 0..4 {
        key.take(at(NOON + second * SECOND), 1);
    }
    let now = at(NOON + 4 * SECOND);
    let mut key = key.under(&log("2/minute"));
    assert_eq!(key.take(now, 1).retry_after, Some(58 * SECOND));
    assert_eq!(key.take(now, 2).retry_after, Some(59 * SECOND));
    let mut key = key.under(&log("8/minute"));
    assert_eq!(key.remaining(now), 4, "nobody has taken under the smaller quota yet");
    assert!(key.take(now, 4).allowed);
    assert_eq!(key.remaining(at(NOON + MINUTE)), 1);
}

#[test]
fn an_interval_bucket_keeps_its_period_ends() {
    let mut key = Key::new(&interval_bucket("10/minute"));
    key.take(at(NOON), 10);
    let key = key.under(&interval_bucket("4/minute"));
    // 10 are missing of 4: it is empty, not worse.
    assert_eq!(key.peek(at(NOON + 20 * SECOND), 1).retry_after, Some(40 * SECOND));
}

#[test]
fn a_raised_limit_does_not_lock_out_for_the_old_period() {
    for (from, to) in [
        (bucket("100/d"), bucket("1000/minute")),
        (interval_bucket("100/d"), interval_bucket("1000/minute")),
    ] {
        let mut key = Key::new(&from);
        key.take(at(NOON), 100);
        let mut key = key.under(&to);
        let wait = key.take(at(NOON + SECOND), 1).retry_after.unwrap();
        assert!(wait <= MINUTE, "{to:?}: {wait}");
        assert!(wait == 0 || key.take(at(NOON + SECOND + wait), 1).allowed, "{to:?}");
    }
}

#[test]
fn the_kind_tells_algorithms_apart() {
    let mut kinds: Vec<u8> =
        every_algorithm("1/s").iter().map(|spec| spec.rule().unwrap().kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // Both anchors of a fixed window mean the same by its words.
    assert_eq!(kinds.len(), 5);
    assert!(!kinds.contains(&0));
}

/// Another definition with the same algorithm and way of refilling.
fn another(of: &RateSpec, quota: u64, span: Micros) -> RateSpec {
    let quota = if of.algorithm == Algorithm::SlidingLog { 1 + quota % 1_000 } else { quota };
    RateSpec { quota, period: Period::Span(span), burst: None, ..*of }
}

proptest! {
    #![proptest_config(common::cases(300))]

    #[test]
    fn a_bucket_keeps_its_tat_up_to_a_whole_bucket(quota in 1..1_000u64, other in 1..1_000u64, span in span(), longer in span(), used in 1..1_000u64) {
        // An overdraft under the same definition stays what it is.
        prop_assume!((quota, span) != (other, longer));
        let spec = another(&bucket("1/s"), quota, span);
        let mut key = Key::new(&spec);
        key.charge(at(NOON), used);
        let before = key.peek(at(NOON), 0).reset_after;
        let after = key.under(&another(&spec, other, longer)).peek(at(NOON), 0).reset_after;
        // Ticks of another size round up.
        prop_assert!(after == before.min(longer) || after == (before + 1).min(longer), "{before} {after}");
    }

    #[test]
    fn rule_3_holds_under_a_changed_definition((spec, key, now) in used_key(), quota in 1..2_000u64, span in span(), choice: u64) {
        let spec = another(&spec, quota, span);
        let mut key = key.under(&spec);
        let Some(cost) = refused_cost(&spec, &key, now, choice) else { return Ok(()) };
        let wait = key.take(now, cost).retry_after.unwrap();
        prop_assume!(wait < Micros::MAX - now.steady.max(0));
        prop_assert!(!key.peek(now.plus(wait - 1), cost).allowed);
        prop_assert!(key.take(now.plus(wait), cost).allowed);
    }

    #[test]
    fn a_changed_window_locks_no_key_out_for_longer_than_its_period((spec, key, now) in used_key(), quota in 1..2_000u64, span in span()) {
        prop_assume!(spec.algorithm == Algorithm::FixedWindow);
        let mut key = key.under(&another(&spec, quota, span));
        prop_assert!(key.take(now, 1).retry_after.unwrap() <= span);
    }

    #[test]
    fn rule_10_only_windows_of_the_clock_see_the_wall(spec in any_spec(), wall: Micros, cost in 1..4u64) {
        prop_assume!(spec.algorithm != Algorithm::FixedWindow);
        let mut key = Key::new(&spec);
        key.take(at(NOON), cost);
        let stepped = Now { steady: NOON + 7, wall };
        prop_assert_eq!(key.peek(stepped, cost), key.peek(at(NOON + 7), cost));
    }

    #[test]
    fn rule_10_a_clock_that_steps_an_hour_neither_starves_nor_floods(
        by_hit: bool, forward: bool, minutes in 1..200i64, start in NOON..NOON + HOUR, step_at in 0..60,
    ) {
        let text = format!("5 per {minutes} minutes");
        let spec = if by_hit { first_hit(&text) } else { fixed(&text) };
        let mut key = Key::new(&spec);
        let (mut now, mut passed) = (at(start), 0);
        for call in 0..60 {
            if call == step_at {
                now.wall += if forward { HOUR } else { -HOUR };
            }
            passed += key.drain(now);
            now = now.plus(minutes * MINUTE / 6);
        }
        // Ten periods: ten or eleven windows, one more or less for the step, and one as it shifts the others.
        prop_assert!((8 * 5..=13 * 5).contains(&passed), "{passed}");
    }

    #[test]
    fn rule_10_a_clock_that_steps_an_hour_hands_out_at_most_one_quota(
        by_hit: bool, forward: bool, minutes in 1..200i64, start in NOON..NOON + HOUR, later in 0..HOUR,
    ) {
        let text = format!("5 per {minutes} minutes");
        let spec = if by_hit { first_hit(&text) } else { fixed(&text) };
        let (mut key, mut now) = (Key::new(&spec), at(start).plus(later));
        key.drain(at(start));
        key.drain(now);
        now.wall += if forward { HOUR } else { -HOUR };
        prop_assert!(key.drain(now) <= 5);
        prop_assert_eq!(key.drain(now), 0);
    }

    #[test]
    fn rule_10_a_clock_that_steps_an_hour_locks_no_key_out_for_longer_than_its_period(
        by_hit: bool, forward: bool, minutes in 1..200i64, start in NOON..NOON + HOUR, gap in 0..HOUR,
    ) {
        let text = format!("5 per {minutes} minutes");
        let spec = if by_hit { first_hit(&text) } else { fixed(&text) };
        let mut key = Key::new(&spec);
        key.drain(at(start));
        let mut now = at(start).plus(gap);
        now.wall += if forward { HOUR } else { -HOUR };
        let wait = key.take(now, 1).retry_after.unwrap();
        prop_assert!(wait <= minutes * MINUTE);
        if wait > 0 {
            prop_assert!(key.take(now.plus(wait), 1).allowed);
        }
    }
}

#[test]
fn a_definition_changed_back_keeps_what_was_used() {
    for (there, away) in
        [(sliding("10/minute"), sliding("10/hour")), (fixed("10/minute"), fixed("10/hour"))]
    {
        let mut key = Key::new(&there);
        key.take(at(O_CLOCK), 8);
        let key = key.under(&away).under(&there);
        assert_eq!(key.remaining(at(O_CLOCK)), 2, "{there:?}");
    }
}
