//! One example for each thing that a booking is.

use ratelimit_core::{Reason, DAY, HOUR, MINUTE, SECOND};

use crate::common::{
    at, bucket, every_algorithm, first_hit, fixed, interval_bucket, log, sliding, Key, NOON,
};
use crate::Keys;

/// The start of a full hour.
const O_CLOCK: i64 = NOON - NOON % HOUR;

#[test]
fn each_waits_for_those_before() {
    for (spec, waits) in [
        (bucket("2/minute"), [30, 60, 90, 120, 150]),
        (interval_bucket("2/minute"), [60, 60, 120, 120, 180]),
        (fixed("2/minute"), [60, 60, 120, 120, 180]),
        (first_hit("2/minute"), [60, 60, 120, 120, 180]),
        // 2 fade to 1 in half a minute; from then on it is 1 in each window.
        (sliding("2/minute"), [90, 120, 180, 240, 300]),
        (log("2/minute"), [60, 60, 120, 120, 180]),
    ] {
        let mut key = Keys::new(&[spec]);
        assert_eq!(key.wait(at(O_CLOCK), 1), Some(0), "{spec:?}");
        assert_eq!(key.wait(at(O_CLOCK), 1), Some(0), "{spec:?}");
        for wait in waits {
            assert_eq!(key.wait(at(O_CLOCK), 1), Some(wait * SECOND), "{spec:?}");
        }
    }
}

#[test]
fn a_booking_is_a_decision_of_its_moment() {
    for spec in every_algorithm("5/minute") {
        let mut key = Keys::new(&[spec]);
        key.take(at(O_CLOCK), 4);
        let before = key.clone();
        let (booking, held) = key.reserve(at(O_CLOCK), 3, None);
        let then = at(O_CLOCK).plus(booking.wait.unwrap());
        assert_eq!(booking.decision, before.peek(then, 3), "{spec:?}");
        assert!(booking.decision.allowed);
        let receipt = held[0].unwrap();
        assert_eq!((receipt.at, receipt.cost), (then, 3));
    }
}

#[test]
fn what_fits_at_once_is_taken_at_once() {
    for spec in every_algorithm("5/minute") {
        let (mut asked, mut taken) = (Key::new(&spec), Key::new(&spec));
        let booking = asked.reserve(at(NOON), 5, Some(0));
        assert_eq!((booking.wait, booking.decision), (Some(0), taken.take(at(NOON), 5)));
        assert_eq!(asked.state, taken.state, "{spec:?}");
    }
}

#[test]
fn a_wait_that_is_too_long_takes_nothing() {
    for spec in every_algorithm("1/minute") {
        let mut key = Key::new(&spec);
        key.take(at(O_CLOCK), 1);
        let before = key.clone();
        let wait = key.peek(at(O_CLOCK), 1).retry_after.unwrap();
        let booking = key.reserve(at(O_CLOCK), 1, Some(wait - 1));
        assert_eq!((booking.wait, booking.decision), (None, before.peek(at(O_CLOCK), 1)));
        assert_eq!(key.state, before.state, "{spec:?}");
        assert_eq!(key.reserve(at(O_CLOCK), 1, Some(wait)).wait, Some(wait));
    }
}

#[test]
fn what_never_passes_is_not_booked_and_cost_0_books_nothing() {
    for spec in every_algorithm("1/minute") {
        let mut key = Key::new(&spec);
        key.take(at(NOON), 1);
        let before = key.state.clone();
        let booking = key.reserve(at(NOON), 2, None);
        assert_eq!((booking.wait, booking.decision.reason), (None, Some(Reason::Never)));
        assert_eq!(key.reserve(at(NOON), 0, None).wait, Some(0));
        assert_eq!(key.state, before, "{spec:?}");
    }
}

#[test]
fn who_does_not_wait_comes_behind_those_who_do() {
    for spec in every_algorithm("2/minute") {
        let mut key = Key::new(&spec);
        key.take(at(O_CLOCK), 1);
        let wait = key.reserve(at(O_CLOCK), 2, None).wait.unwrap();
        // A cost of 1 would have fitted.
        let answer = key.take(at(O_CLOCK), 1);
        assert_eq!((answer.allowed, answer.remaining), (false, 0), "{spec:?}");
        assert!(answer.retry_after.unwrap() > wait, "{spec:?}");
        assert_eq!(key.take_at_most(at(O_CLOCK), 2), 0);
        assert!(!key.try_take(at(O_CLOCK).plus(wait - 1), 1), "{spec:?}");
        assert!(key.take(at(O_CLOCK), 0).allowed, "cost 0 waits for nobody");
    }
}

#[test]
fn a_penalty_counts_behind_what_is_booked() {
    for spec in every_algorithm("2/minute") {
        let mut key = Key::new(&spec);
        key.take(at(O_CLOCK), 2);
        let wait = key.reserve(at(O_CLOCK), 1, None).wait.unwrap();
        let before = key.peek(at(O_CLOCK), 1).retry_after.unwrap();
        key.charge(at(O_CLOCK), 1);
        let after = key.peek(at(O_CLOCK), 1).retry_after.unwrap();
        assert!(wait <= before && before < after, "{spec:?}: {wait} {before} {after}");
    }
}

#[test]
fn several_rules_are_booked_for_one_moment() {
    for second in every_algorithm("2/minute") {
        let mut keys = Keys::new(&[
            bucket("1/s"),
            second,
            interval_bucket("1/s"),
            fixed("1/s"),
            sliding("1/s"),
            log("1/s"),
        ]);
        let mut last = 0;
        for n in 0..6 {
            let now = at(O_CLOCK).plus(n);
            let free = keys.peek(now, 1);
            let wait = keys.wait(now, 1).unwrap();
            assert_eq!(free.retry_after, Some(wait), "{second:?}");
            let then = now.plus(wait).steady;
            assert!(n == 0 || then >= last + SECOND, "{second:?}: {then} after {last}");
            last = then;
        }
        // The rules that had room for it when it was booked have none at that moment.
        let answer = keys.peek(at(last), 1);
        assert!(!answer.allowed && answer.retry_after >= Some(SECOND), "{second:?}");
    }
}

/// A window is on the wall, who waits for it waits by the steady clock.
#[test]
fn a_booked_window_does_not_lock_out_when_the_wall_clock_is_set_back() {
    for spec in [fixed("2/minute"), first_hit("2/minute")] {
        let mut key = Key::new(&spec);
        key.take(at(O_CLOCK), 2);
        key.reserve(at(O_CLOCK), 1, None);
        let mut now = at(O_CLOCK + SECOND);
        now.wall -= DAY;
        assert!(key.take(now, 2).retry_after.unwrap() <= MINUTE, "{spec:?}");
        assert!(key.take(now, 1).allowed, "{spec:?}");
        assert!(!key.take(now, 1).allowed, "what was booked counts once: {spec:?}");
    }
}

#[test]
fn what_was_booked_under_another_definition_is_only_counted() {
    let pairs = every_algorithm("2/day").into_iter().zip(every_algorithm("3/minute"));
    for (from, to) in pairs {
        // A log has only times, and they are the same under every definition.
        if from == log("2/day") {
            continue;
        }
        let mut key = Key::new(&from);
        for _ in 0..7 {
            assert!(key.reserve(at(O_CLOCK), 1, None).wait.is_some());
        }
        let key = key.under(&to);
        let wait = key.peek(at(O_CLOCK + SECOND), 1).retry_after.unwrap();
        assert!(wait <= MINUTE, "{to:?}: {wait}");
    }
}
