//! No input makes a decision panic or overflow: not the ends of time, not the largest costs, not a state that nobody wrote.

mod common;

use std::rc::Rc;

use common::{any_spec, Key};
use proptest::prelude::*;
use ratelimit_core::{
    calendar::{after, window, Utc},
    parse_rates, Algorithm, MemoryState, Micros, Now, Period, RateSpec, Rule, State, DAY,
};

fn time() -> impl Strategy<Value = Micros> {
    prop_oneof![
        any::<Micros>(),
        Micros::MIN..Micros::MIN + DAY,
        Micros::MAX - DAY..Micros::MAX,
        Just(Micros::MIN),
        Just(Micros::MAX),
        Just(0),
    ]
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        time().prop_map(Micros::cast_unsigned),
        Just(0),
        Just(u64::MAX),
        0..9u64
    ]
}

fn any_cost() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(u64::MAX), 0..9u64]
}

fn any_period() -> impl Strategy<Value = Period> {
    prop_oneof![
        any::<i64>().prop_map(Period::Span),
        any::<u32>().prop_map(Period::Days),
        any::<u32>().prop_map(Period::Weeks),
        any::<u32>().prop_map(Period::Months),
    ]
}

proptest! {
    #![proptest_config(common::cases(1000))]

    #[test]
    fn no_call_panics(
        spec in any_spec(),
        words in [word(), word(), word()],
        times in prop::collection::vec(word(), 0..5),
        calls in prop::collection::vec((time(), time(), any_cost()), 1..6),
    ) {
        let mut key = Key::new(&spec);
        key.state.set_words(words);
        for (place, word) in times.into_iter().enumerate() {
            key.state.set_time(place, word);
        }
        for (steady, wall, cost) in calls {
            let now = Now { steady, wall };
            prop_assert_eq!(key.peek(now, cost), key.take(now, cost));
            key.charge(now, cost);
            key.try_take(now, cost);
            key.refund(now, cost);
            key.take_at_most(now, cost);
            key.reserve(now, cost, None);
            prop_assert_eq!(key.peek(now, 1), key.take(now, 1));
            let answer = key.peek(now, cost);
            prop_assert!(answer.remaining <= answer.quota);
            prop_assert!(answer.retry_after.is_none_or(|wait| wait >= 0));
            prop_assert!(answer.reset_after >= 0);
        }
    }

    #[test]
    fn no_definition_panics(quota in any_cost(), period in any_period(), burst in prop::option::of(any_cost()), algorithm in 0..4usize) {
        let (_, algorithm) = Algorithm::NAMES[algorithm];
        let spec = RateSpec { algorithm, quota, period, burst, ..common::bucket("1/s") };
        let made = Rule::new(&spec, Rc::new(Utc));
        // What is accepted keeps within the limits of the contract.
        prop_assert!(made.is_err() || spec.period.longest() >= 1_000 && spec.period.longest() <= 12_000 * 31 * DAY);
    }

    #[test]
    fn no_moment_is_without_a_window(spec in any_spec(), now in time()) {
        let (start, end) = window(spec.period, now, &Utc);
        prop_assert!(start <= now && (now < end || end == Micros::MAX));
        let next = after(spec.period, now, &Utc);
        prop_assert!(now < next || now == Micros::MAX);
    }

    #[test]
    fn no_string_panics(text: String, algorithm in 0..4usize) {
        let error = parse_rates(&text, Algorithm::NAMES[algorithm].1);
        prop_assert!(error.is_ok() || error.unwrap_err().position <= text.chars().count() + 1);
    }

    #[test]
    fn no_rate_panics(quota in any_cost(), many in any_cost(), unit in 0..8usize, burst in any_cost(), algorithm in 0..4usize) {
        let unit = ["ms", "s", "m", "h", "days", "weeks", "months", "years"][unit];
        let (_, algorithm) = Algorithm::NAMES[algorithm];
        for text in [format!("{quota}/{many}{unit}"), format!("1/{}{unit} burst {burst}", many >> 24)] {
            if let Ok(specs) = parse_rates(&text, algorithm) {
                prop_assert!(specs[0].rule().is_ok());
            }
        }
    }
}

#[test]
fn a_period_of_more_days_than_time_has_is_too_long() {
    for text in ["1 per 4000000000 days", "1 per 4000000000 weeks", "1 per 1000000000000 ms"] {
        for (_, algorithm) in Algorithm::NAMES {
            let expected = text.ends_with("ms");
            assert_eq!(parse_rates(text, algorithm).is_ok(), expected, "{text}");
        }
    }
}

#[test]
fn an_untouched_state_is_all_zero() {
    assert_eq!(MemoryState::default().words(), [0; 3]);
    assert_eq!(MemoryState::default().time(7), 0);
}
