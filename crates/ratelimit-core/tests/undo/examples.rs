//! Examples, one for each thing that is easily got wrong, or that cannot be had.

use ratelimit_core::{Now, SECOND};

use crate::common::{at, every_algorithm, first_hit, interval_bucket, Key, NOON};
use crate::transaction::Transaction;
use crate::{charge, undo};

fn kept(key: &mut Key, transaction: &mut Transaction, now: Now, cost: u64) {
    let receipt = charge(key, now, cost).unwrap();
    transaction.add(&key.rule, receipt);
}

#[test]
fn a_savepoint_that_was_rolled_back_takes_nothing_from_what_was_before() {
    for spec in every_algorithm("10/minute") {
        let mut key = Key::new(&spec);
        let mut transaction = Transaction::new();
        kept(&mut key, &mut transaction, at(NOON), 5);
        transaction.savepoint();
        kept(&mut key, &mut transaction, at(NOON), 5);
        transaction.roll_back_to_savepoint(&mut key, at(NOON));
        assert_eq!(key.remaining(at(NOON)), 5, "{spec:?}");
        transaction.roll_back(&mut key, at(NOON));
        assert_eq!(key.remaining(at(NOON)), 10, "{spec:?}");
    }
}

#[test]
fn two_takes_that_are_rolled_back_come_back_whole() {
    for spec in every_algorithm("10/minute") {
        let mut key = Key::new(&spec);
        let mut transaction = Transaction::new();
        for now in [at(NOON), at(NOON + SECOND)] {
            kept(&mut key, &mut transaction, now, 5);
        }
        transaction.roll_back(&mut key, at(NOON + SECOND));
        // But for a 65536th of the bucket.
        assert_eq!(key.remaining(at(NOON + SECOND + 1_000)), 10, "{spec:?}");
    }
}

#[test]
fn a_charge_that_overdraws_and_is_undone_leaves_what_others_took() {
    for spec in every_algorithm("5/minute") {
        let mut key = Key::new(&spec);
        key.charge(at(NOON), 3);
        let receipt = charge(&mut key, at(NOON + SECOND), 5).unwrap();
        undo(&mut key, at(NOON + SECOND), &receipt);
        assert_eq!(key.remaining(at(NOON + SECOND)), 2, "{spec:?}");
    }
}

/// What is taken later comes back when it would have with the take that was undone: here earlier than without it.
#[test]
fn the_period_that_an_undone_take_began_goes_on_for_the_others() {
    for spec in [first_hit("5/minute"), interval_bucket("5/minute")] {
        let mut key = Key::new(&spec);
        let receipt = charge(&mut key, at(NOON), 1).unwrap();
        key.charge(at(NOON + 30 * SECOND), 4);
        undo(&mut key, at(NOON + 31 * SECOND), &receipt);
        assert_eq!(key.remaining(at(NOON + 60 * SECOND - 1)), 1, "{spec:?}");
        assert_eq!(key.remaining(at(NOON + 60 * SECOND)), 5, "{spec:?}");
    }
}
