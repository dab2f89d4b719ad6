//! Several rules together: all or nothing, and the one that binds is reported (section 1.1 of the contract).

mod common;

use common::{
    at, bucket, cost, every_algorithm, fixed, gap, interval_bucket, log, sliding, used_key, Cost,
    Key, NOON,
};
use proptest::prelude::*;
use ratelimit_core::{
    decide, take_at_most, Decision, Limit, MemoryState, Micros, Now, Operation, Reason, DAY, HOUR,
    MINUTE, SECOND,
};

fn limits<'a>(keys: &'a mut [Key], costs: &[u64]) -> Vec<Limit<'a, &'a mut MemoryState>> {
    let cost = |n: usize| costs[n.min(costs.len() - 1)];
    keys.iter_mut()
        .enumerate()
        .map(|(n, Key { rule, state })| Limit::new(rule, state, cost(n)))
        .collect()
}

/// Takes from all keys; the last cost is that of all further keys too.
fn take(keys: &mut [Key], now: Now, costs: &[u64]) -> Decision {
    decide(&mut limits(keys, costs), now, Operation::Take)
}

fn keys(specs: &[ratelimit_core::RateSpec]) -> Vec<Key> {
    specs.iter().map(Key::new).collect()
}

#[test]
fn all_take_or_none_does() {
    for second in every_algorithm("1/hour") {
        let mut keys = keys(&[bucket("10/s"), second]);
        assert!(take(&mut keys, at(NOON), &[1]).allowed);
        assert!(!take(&mut keys, at(NOON), &[1]).allowed);
        assert_eq!(keys[0].remaining(at(NOON)), 9, "{second:?}");
        assert_eq!(keys[1].remaining(at(NOON)), 0, "{second:?}");
    }
}

#[test]
fn refused_the_longest_wait_is_reported() {
    let mut keys = keys(&[log("1/s"), log("1/hour"), log("1/minute")]);
    take(&mut keys, at(NOON), &[1]);
    let answer = take(&mut keys, at(NOON), &[1]);
    assert_eq!((answer.binding, answer.retry_after), (1, Some(HOUR)));
}

#[test]
fn never_is_the_longest_wait() {
    for (specs, binding) in [
        ([log("1/hour"), fixed("0/s"), log("1/day")], 1),
        ([fixed("0/s"), log("1/hour"), fixed("0/day")], 0),
    ] {
        let mut keys = keys(&specs);
        for key in &mut keys {
            key.charge(at(NOON), 1);
        }
        let answer = take(&mut keys, at(NOON), &[1]);
        assert_eq!((answer.binding, answer.retry_after), (binding, None));
        assert_eq!(answer.reason, Some(Reason::Never));
    }
}

#[test]
fn a_refusal_goes_before_what_passes() {
    let mut keys = keys(&[log("100/s"), log("2/s"), log("1000/s")]);
    let answer = take(&mut keys, at(NOON), &[3]);
    assert_eq!((answer.binding, answer.quota, answer.remaining), (1, 2, 2));
}

#[test]
fn allowed_the_least_remaining_is_reported() {
    let mut keys = keys(&[log("9/s"), log("5/s"), log("7/s")]);
    let answer = take(&mut keys, at(NOON), &[1]);
    assert_eq!((answer.binding, answer.quota, answer.remaining), (1, 5, 4));
}

#[test]
fn of_equals_the_first_is_reported() {
    let mut keys = keys(&[sliding("9/s"), log("5/hour"), log("5/hour")]);
    assert_eq!(take(&mut keys, at(NOON), &[5]).binding, 1);
    assert_eq!(take(&mut keys, at(NOON), &[5]).binding, 1);
}

#[test]
fn reset_after_is_that_of_all_rules() {
    let mut keys = keys(&[log("3/day"), log("1/s")]);
    let answer = take(&mut keys, at(NOON), &[1]);
    assert_eq!((answer.binding, answer.reset_after), (1, DAY));
}

#[test]
fn refused_the_rules_that_would_have_passed_are_not_counted_as_taken() {
    let mut keys = keys(&[log("3/day"), log("1/s")]);
    take(&mut keys, at(NOON), &[1]);
    let answer = take(&mut keys, at(NOON + SECOND - 1), &[1]);
    assert_eq!((answer.allowed, answer.reset_after), (false, DAY - SECOND + 1));
}

#[test]
fn each_limit_has_its_own_cost() {
    let mut keys = keys(&[log("10/s"), log("10/s")]);
    assert!(take(&mut keys, at(NOON), &[1, 7]).allowed);
    assert_eq!((keys[0].remaining(at(NOON)), keys[1].remaining(at(NOON))), (9, 3));
}

#[test]
fn no_rule_at_all_limits_nothing() {
    assert_eq!(take(&mut [], at(NOON), &[1]), Decision::unlimited());
}

#[test]
fn take_at_most_takes_what_the_tightest_rule_has_left() {
    let mut keys = keys(&[bucket("9/s"), interval_bucket("5/minute"), fixed("7/hour")]);
    assert_eq!(take_at_most(&mut limits(&mut keys, &[6]), at(NOON)), 5);
    assert_eq!(take_at_most(&mut limits(&mut keys, &[6]), at(NOON)), 0);
    assert_eq!(keys[2].remaining(at(NOON)), 2);
}

/// Some keys with a past, brought to one moment.
fn used_keys() -> impl Strategy<Value = (Vec<Key>, Now)> {
    prop::collection::vec((used_key(), 0..1_200u64), 1..4).prop_map(|keys| {
        let ready = |((spec, _, now), part): &(_, u64)| now_plus(now, gap(spec, *part, 0));
        let now = keys.iter().map(ready).max().unwrap();
        (keys.into_iter().map(|((_, key, _), _)| key).collect(), at(now))
    })
}

fn now_plus(now: &Now, wait: Micros) -> Micros {
    now.plus(wait).steady
}

fn costs() -> impl Strategy<Value = Vec<Cost>> {
    prop::collection::vec(cost(), 3)
}

proptest! {
    #![proptest_config(common::cases(200))]

    #[test]
    fn the_answer_is_that_of_the_rule_that_binds((mut keys, now) in used_keys(), costs in costs()) {
        let costs: Vec<u64> = keys.iter().zip(costs).map(|(key, cost)| match cost {
            Cost::Units(n) => n,
            Cost::Part(n) => (u128::from(key.peek(now, 0).quota) * u128::from(n) / 1_000) as u64,
        }).collect();
        let alone: Vec<Decision> = keys.iter().zip(&costs).map(|(key, cost)| key.peek(now, *cost)).collect();
        let untaken: Vec<Decision> = keys.iter().map(|key| key.peek(now, 0)).collect();
        let answer = take(&mut keys, now, &costs);

        let allowed = alone.iter().all(|a| a.allowed);
        prop_assert_eq!(answer.allowed, allowed);
        let binding = if allowed {
            (0..alone.len()).min_by_key(|n| alone[*n].remaining)
        } else {
            let wait = |n: &usize| if alone[*n].allowed { -1 } else { alone[*n].retry_after.map_or(i128::MAX, i128::from) };
            (0..alone.len()).rev().max_by_key(wait)
        }.unwrap();
        let reset_after = alone.iter().zip(&untaken).map(|(a, b)| if allowed { a } else { b }.reset_after).max().unwrap();
        prop_assert_eq!(answer, Decision { binding, reset_after, ..alone[binding] });
        for (n, key) in keys.iter().enumerate() {
            prop_assert_eq!(key.remaining(now), untaken[n].remaining - if allowed { costs[n] } else { 0 });
        }
    }

    #[test]
    fn rule_3_waiting_exactly_retry_after_passes_all_rules((mut keys, now) in used_keys(), cost in 1..4u64) {
        let answer = take(&mut keys, now, &[cost]);
        let wait = answer.retry_after.unwrap_or(0);
        if wait == 0 || wait >= Micros::MAX - now.steady.max(0) {
            return Ok(());
        }
        prop_assert!(!take(&mut keys.clone(), now.plus(wait - 1), &[cost]).allowed);
        prop_assert!(take(&mut keys, now.plus(wait), &[cost]).allowed);
    }
}

#[test]
fn rules_of_one_limiter_keep_their_own_pace() {
    let mut keys = keys(&[bucket("10/s"), fixed("15/minute")]);
    let start = NOON - NOON % MINUTE;
    let passed =
        |keys: &mut Vec<Key>, time| (0..20).filter(|_| take(keys, at(time), &[1]).allowed).count();
    assert_eq!(passed(&mut keys, start), 10);
    assert_eq!(passed(&mut keys, start + SECOND), 5);
    assert_eq!(passed(&mut keys, start + MINUTE), 10);
}
