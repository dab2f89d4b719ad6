//! A booking that is undone: what comes back, and what stays because others sleep until a moment that was told.

use ratelimit_core::{Receipts, DAY, HOUR, MINUTE, SECOND};

use crate::common::{at, bucket, every_algorithm, fixed, log, sliding, NOON};
use crate::Keys;

const O_CLOCK: i64 = NOON - NOON % HOUR;

#[test]
fn who_comes_after_the_last_was_cancelled_gets_its_moment() {
    for spec in every_algorithm("2/minute") {
        let mut key = Keys::new(&[spec]);
        key.take(at(O_CLOCK), 2);
        key.wait(at(O_CLOCK), 1);
        let (last, held) = key.reserve(at(O_CLOCK), 1, None);
        key.undo(at(O_CLOCK + SECOND), &held);
        let wait = last.wait.unwrap() - SECOND;
        assert_eq!(key.wait(at(O_CLOCK + SECOND), 1), Some(wait), "{spec:?}");
    }
}

#[test]
fn those_who_are_left_keep_their_moments() {
    for spec in every_algorithm("2/minute") {
        let mut key = Keys::new(&[spec]);
        key.take(at(O_CLOCK), 2);
        let (_, held) = key.reserve(at(O_CLOCK), 2, None);
        let behind = key.wait(at(O_CLOCK), 1).unwrap();
        key.undo(at(O_CLOCK), &held);
        let then = at(O_CLOCK).plus(behind);
        assert!(!key.peek(at(then.steady - 1), 1).allowed, "{spec:?}");
        // What the cancelled one would have taken is there then, but for a bucket: it would let others pass before.
        let free = key.peek(then, 1).allowed;
        assert_eq!(free, spec != bucket("2/minute"), "{spec:?}");
    }
}

/// Those who wait give up one after the other, the last one first: nothing is left of them.
#[test]
fn a_queue_that_is_cancelled_from_behind_leaves_nothing_in_a_bucket_or_a_log() {
    // A log remembers of several times that were pushed out at once only the newest.
    for (spec, most) in [(bucket("3/minute"), 3), (log("3/minute"), 1)] {
        let mut key = Keys::new(&[spec]);
        key.take(at(O_CLOCK), 3);
        let before = key.peek(at(O_CLOCK), 3);
        let queue: Vec<_> =
            (0..20).map(|n| key.reserve(at(O_CLOCK), 1 + n % most, None).1).collect();
        for held in queue.iter().rev() {
            key.undo(at(O_CLOCK), held);
        }
        assert_eq!(key.peek(at(O_CLOCK), 3), before, "{spec:?}");
    }
}

#[test]
fn a_bucket_that_another_rule_made_wait_is_as_it_was() {
    for second in [log("5/day"), bucket("5/day")] {
        let mut keys = Keys::new(&[bucket("10/s"), log("10/s"), second]);
        keys.take(at(O_CLOCK), 5);
        let queue: Vec<_> = (0..3).map(|_| keys.reserve(at(O_CLOCK), 1, None).1).collect();
        assert!(keys.peek(at(O_CLOCK), 1).retry_after > Some(HOUR), "{second:?}");
        for held in queue.iter().rev() {
            keys.undo(at(O_CLOCK), held);
        }
        for (key, left) in keys.0.iter().zip([5, 5, 0]) {
            assert_eq!(key.remaining(at(O_CLOCK)), left, "{second:?}");
        }
    }
}

/// What was taken before a booking that another rule made wait must not come back: at its moment the bucket would be too full.
#[test]
fn nothing_before_a_booking_comes_back_to_a_bucket() {
    let mut keys = Keys::new(&[bucket("10 per 10 seconds"), fixed("5/minute")]);
    let (_, held) = keys.take(at(O_CLOCK + 56 * SECOND), 4);
    assert_eq!(keys.wait(at(O_CLOCK + 56 * SECOND), 2), Some(4 * SECOND));
    keys.undo(at(O_CLOCK + 56 * SECOND), &held);
    assert_eq!(keys.0[0].remaining(at(O_CLOCK + 60 * SECOND)), 8);
}

/// A booking pushes times out of a log that expire before its moment, but have not yet.
#[test]
fn what_a_cancelled_booking_pushed_out_of_a_log_counts_until_it_expires() {
    let mut key = Keys::new(&[log("2/minute")]);
    key.take(at(O_CLOCK), 1);
    key.take(at(O_CLOCK + 10 * SECOND), 1);
    let before = key.clone();
    let (_, held) = key.reserve(at(O_CLOCK + 20 * SECOND), 1, None);
    key.undo(at(O_CLOCK + 21 * SECOND), &held);
    for second in [21, 59, 60, 69, 70] {
        let now = at(O_CLOCK + second * SECOND);
        assert_eq!(key.peek(now, 1), before.peek(now, 1), "{second}");
    }
}

#[test]
fn a_part_that_is_taken_back_leaves_the_rest_where_it_is() {
    let mut keys = Keys::new(&[bucket("10/s"), fixed("10/day")]);
    keys.take(at(O_CLOCK), 10);
    let (booking, held) = keys.reserve(at(O_CLOCK), 7, None);
    let then = at(O_CLOCK).plus(booking.wait.unwrap());
    let mut receipts = Receipts::default();
    let key = &mut keys.0[0];
    receipts.add(&key.rule, held[0].unwrap());
    for (back, left) in [(2, 5), (3, 8)] {
        let part = receipts.take_back(&key.rule, back);
        let mut limit = ratelimit_core::Limit::new(&key.rule, &mut key.state, 0);
        receipts.moved_up(part.undo(|receipt| limit.undo(at(O_CLOCK), receipt)));
        assert_eq!(key.remaining(then), left);
    }
    assert!(then.steady > O_CLOCK + MINUTE && then.steady <= O_CLOCK + DAY);
}

#[test]
fn a_cancelled_window_does_not_go_back() {
    for spec in [fixed("2/minute"), sliding("2/minute")] {
        let mut key = Keys::new(&[spec]);
        key.take(at(O_CLOCK), 1);
        let (booking, held) = key.reserve(at(O_CLOCK), 2, None);
        key.undo(at(O_CLOCK), &held);
        let then = at(O_CLOCK).plus(booking.wait.unwrap());
        // What was left of the window that goes on now is forgotten.
        assert!(!key.peek(at(then.steady - 1), 1).allowed, "{spec:?}");
        assert!(key.peek(then, 2).allowed, "{spec:?}");
    }
}
