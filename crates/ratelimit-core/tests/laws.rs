//! What every algorithm keeps, whatever the definition and the past of a key. The numbers are those of the contract's rules.

mod common;

use common::{any_spec, at, cost, every_algorithm, moment, refused_cost, used_key, Key, NOON};
use proptest::prelude::*;
use ratelimit_core::{Micros, Reason, HOUR};

proptest! {
    #![proptest_config(common::cases(300))]

    #[test]
    fn rule_2_a_refused_call_changes_nothing((spec, key, now) in used_key(), choice: u64, later in 0..HOUR, probe in cost()) {
        let Some(cost) = refused_cost(&spec, &key, now, choice) else { return Ok(()) };
        let mut asked = key.clone();
        prop_assert!(!asked.take(now, cost).allowed);
        prop_assert!(!asked.try_take(now, cost));
        for moment in [now, now.plus(1), now.plus(later)] {
            let probe = probe.of(&spec);
            prop_assert_eq!(asked.peek(moment, probe), key.peek(moment, probe));
        }
    }

    #[test]
    fn rule_2_a_call_above_the_capacity_writes_nothing((spec, key, now) in used_key(), above in 1..=u64::MAX / 2) {
        let mut asked = key.clone();
        prop_assert!(!asked.take(now, spec.capacity() + above).allowed);
        prop_assert_eq!(asked.state, key.state);
    }

    #[test]
    fn rule_3_waiting_exactly_retry_after_passes((spec, mut key, now) in used_key(), choice: u64) {
        let Some(cost) = refused_cost(&spec, &key, now, choice) else { return Ok(()) };
        let answer = key.take(now, cost);
        prop_assert_eq!((answer.allowed, answer.reason), (false, Some(Reason::Rate)));
        let wait = answer.retry_after.unwrap();
        // A wait longer than time itself cannot be waited.
        prop_assume!(wait < Micros::MAX - now.steady.max(0));
        prop_assert!(key.clone().take(now.plus(wait), cost).allowed);
    }

    #[test]
    fn rule_3_waiting_a_microsecond_less_does_not_pass((spec, mut key, now) in used_key(), choice: u64) {
        let Some(cost) = refused_cost(&spec, &key, now, choice) else { return Ok(()) };
        let wait = key.take(now, cost).retry_after.unwrap();
        prop_assume!(wait < Micros::MAX - now.steady.max(0));
        prop_assert!(wait >= 1);
        let early = key.take(now.plus(wait - 1), cost);
        prop_assert_eq!((early.allowed, early.retry_after), (false, Some(1)));
    }

    #[test]
    fn peek_answers_what_take_will((spec, key, now) in used_key(), cost in cost()) {
        let cost = cost.of(&spec);
        prop_assert_eq!(key.peek(now, cost), key.clone().take(now, cost));
    }

    #[test]
    fn the_short_way_decides_like_the_long_one((spec, key, now) in used_key(), cost in cost()) {
        let cost = cost.of(&spec);
        let (mut short, mut long) = (key.clone(), key);
        prop_assert_eq!(short.try_take(now, cost), long.take(now, cost).allowed);
        prop_assert_eq!(short.peek(now, 1), long.peek(now, 1));
    }

    #[test]
    fn remaining_is_the_largest_cost_that_passes((spec, key, now) in used_key()) {
        let remaining = key.remaining(now);
        prop_assert!(remaining <= spec.capacity());
        prop_assert!(key.peek(now, remaining).allowed);
        prop_assert!(!key.peek(now, remaining + 1).allowed);
    }

    #[test]
    fn remaining_counts_down_by_what_is_taken((spec, mut key, now) in used_key(), cost in cost()) {
        let (cost, before) = (cost.of(&spec), key.remaining(now));
        let answer = key.take(now, cost);
        let taken = if answer.allowed { cost } else { 0 };
        prop_assert_eq!(answer.remaining, before - taken);
        prop_assert_eq!(key.remaining(now), before - taken);
        prop_assert_eq!(answer.quota, spec.capacity());
    }

    #[test]
    fn after_reset_after_a_key_is_as_good_as_new((spec, mut key, now) in used_key(), cost in cost()) {
        let reset = key.take(now, cost.of(&spec)).reset_after;
        prop_assume!(reset < Micros::MAX - now.steady.max(0));
        let new = Key::new(&spec);
        let then = now.plus(reset);
        prop_assert_eq!(key.peek(then, 1), new.peek(then, 1));
        if reset > 0 {
            let early = now.plus(reset - 1);
            prop_assert!(key.remaining(early) < spec.capacity());
        }
    }

    #[test]
    fn an_untouched_key_has_everything_and_nothing_to_wait_for(spec in any_spec(), start in moment()) {
        let answer = Key::new(&spec).peek(at(start), 0);
        prop_assert_eq!((answer.remaining, answer.reset_after), (spec.capacity(), 0));
    }

    #[test]
    fn rule_8_cost_0_passes_and_takes_nothing((_, key, now) in used_key()) {
        let mut asked = key.clone();
        let answer = asked.take(now, 0);
        prop_assert_eq!((answer.allowed, answer.retry_after, answer.reason), (true, Some(0), None));
        prop_assert!(asked.try_take(now, 0));
        prop_assert_eq!(asked.state, key.state);
    }

    #[test]
    fn rule_9_a_cost_above_the_capacity_is_never((spec, key, now) in used_key(), above in 1..=u64::MAX / 2) {
        let answer = key.peek(now, spec.capacity() + above);
        prop_assert_eq!((answer.allowed, answer.retry_after, answer.reason), (false, None, Some(Reason::Never)));
    }

    #[test]
    fn rule_9_the_capacity_itself_passes_on_a_new_key(spec in any_spec(), start in moment()) {
        prop_assert!(Key::new(&spec).take(at(start), spec.capacity()).allowed);
    }

    #[test]
    fn a_refund_undoes_a_take((spec, key, now) in used_key(), cost in cost(), probe in cost()) {
        let mut taken = key.clone();
        let cost = cost.of(&spec);
        prop_assume!(taken.take(now, cost).allowed);
        taken.refund(now, cost);
        for later in [now, now.plus(1), now.plus(HOUR)] {
            prop_assert_eq!(taken.peek(later, probe.of(&spec)), key.peek(later, probe.of(&spec)));
        }
    }

    #[test]
    fn a_refund_gives_nothing_above_the_capacity((spec, mut key, now) in used_key(), cost: u64) {
        key.refund(now, cost);
        prop_assert!(key.remaining(now) <= spec.capacity());
        key.refund(now, u64::MAX);
        // What was booked stays so: nobody passes before.
        let now = now.plus(key.peek(now, 0).reset_after);
        prop_assert_eq!(key.remaining(now), spec.capacity());
        prop_assert!(key.take(now, spec.capacity()).allowed);
        prop_assert!(!key.take(now, 1).allowed);
    }

    #[test]
    fn a_charge_may_overdraw_and_cost_0_still_passes((spec, mut key, now) in used_key(), cost: u64) {
        key.charge(now, spec.capacity());
        key.charge(now, cost);
        prop_assert_eq!(key.remaining(now), 0);
        prop_assert!(!key.take(now, 1).allowed);
        prop_assert!(key.take(now, 0).allowed);
    }

    #[test]
    fn take_at_most_takes_what_is_left((spec, mut key, now) in used_key(), cost in cost()) {
        let (cost, left) = (cost.of(&spec), key.remaining(now));
        prop_assert_eq!(key.take_at_most(now, cost), cost.min(left));
        prop_assert_eq!(key.remaining(now), left - cost.min(left));
    }
}

#[test]
fn rule_8_cost_0_is_refused_under_quota_0() {
    for spec in every_algorithm("0/minute") {
        assert_eq!(Key::new(&spec).take(at(NOON), 0).reason, Some(Reason::Never), "{spec:?}");
        assert!(!Key::new(&spec).try_take(at(NOON), 0), "{spec:?}");
    }
}

#[test]
fn rule_9_quota_0_denies_for_ever() {
    for spec in every_algorithm("0/minute") {
        let mut key = Key::new(&spec);
        key.charge(at(NOON), 5);
        key.refund(at(NOON), 9);
        let answer = key.take(at(NOON), 1);
        assert_eq!((answer.allowed, answer.retry_after), (false, None), "{spec:?}");
        assert_eq!((answer.quota, answer.remaining), (0, 0), "{spec:?}");
        assert_eq!(answer.reason, Some(Reason::Never), "{spec:?}");
    }
}

#[test]
fn an_overdrawn_bucket_waits_for_the_debt_too() {
    let mut key = Key::new(&common::bucket("10 per 10 seconds"));
    key.charge(at(NOON), 15);
    assert_eq!(key.take(at(NOON), 1).retry_after, Some(6 * ratelimit_core::SECOND));
}
