//! The list of receipts: it is short, tells what was taken last, and what was taken at all.

use proptest::prelude::*;
use ratelimit_core::{Algorithm, Micros, RateSpec, Receipt, Receipts, HOUR, MINUTE, SECOND};

use crate::common::{self, at, bucket, every_algorithm, interval_bucket, moment, Key, NOON};
use crate::transaction::Transaction;
use crate::world::{plain, steps, Deed, Entry, Step, World};
use crate::{
    charge, has_phase, is_continuous, leaves_no_trace, outlook, spec_that, take, total, undo,
    undo_all,
};

/// One transaction takes as often as it likes, another a little now and then.
fn a_long_transaction(spec: &RateSpec, takes: usize, wait: Micros) -> (World, Receipts, u64) {
    let mut world = World::new(*spec, NOON);
    let (mut receipts, mut added) = (Receipts::default(), 0);
    for n in 0..takes {
        world.now = world.now.plus(wait);
        let cost = 1 + n as u64 % 3;
        if n % 7 == 0 {
            if take(&mut world.key, world.now, cost).is_some() {
                world.history.push(Entry::Taken(world.now, cost));
            }
        } else if let Some(receipt) = take(&mut world.key, world.now, cost) {
            added += cost;
            receipts.add(&world.key.rule, receipt);
        }
    }
    (world, receipts, added)
}

#[test]
fn the_receipts_of_a_long_transaction_are_few_and_give_back_no_more() {
    for spec in every_algorithm("1000/minute") {
        // In all, from a second to three hours.
        for wait in [100, 10_000, MINUTE / 1_000, SECOND] {
            let (mut world, receipts, added) = a_long_transaction(&spec, 10_000, wait);
            assert!(receipts.iter().count() <= 2_048, "{spec:?}");
            assert!(total(&receipts) <= added);
            if spec.algorithm == Algorithm::TokenBucket {
                assert_eq!(total(&receipts), added, "{spec:?}");
            }
            undo_all(&mut world.key, world.now, &receipts);
            if leaves_no_trace(&spec) {
                world.is_as_its_replay();
            } else if !has_phase(&spec) {
                world.has_no_more_than_its_replay();
            }
        }
    }
}

#[test]
fn a_hundred_thousand_receipts_are_few() {
    for spec in every_algorithm("1000/s") {
        for wait in [1, 3_000, 100_000, SECOND] {
            let mut key = Key::new(&spec);
            let mut receipts = Receipts::default();
            let mut now = at(NOON);
            for _ in 0..100_000 {
                now = now.plus(wait);
                if let Some(receipt) = charge(&mut key, now, 1) {
                    receipts.add(&key.rule, receipt);
                }
            }
            assert!(receipts.iter().count() < 2_048, "{spec:?}");
            assert!(receipts.iter().map(|receipt| receipt.at.steady).is_sorted());
            let spare = spec.algorithm == Algorithm::TokenBucket || receipts.iter().count() < 1_024;
            assert!(!spare || total(&receipts) == 100_000, "{spec:?}");
        }
    }
}

/// A bucket counts what is given back only so far, and then from the beginning.
#[test]
fn a_receipt_that_outlived_the_count_is_worth_nothing() {
    for spec in [bucket("655360/hour"), interval_bucket("655360/hour")] {
        let mut key = Key::new(&spec);
        let receipt = charge(&mut key, at(NOON), 327_680).unwrap();
        key.refund(at(NOON), 327_680);
        // By then all that it took could have been served.
        let now = at(NOON).plus(HOUR);
        for round in 0..300 {
            key.charge(now, 327_680);
            let mut asked = key.clone();
            undo(&mut asked, now, &receipt);
            assert_eq!(asked.remaining(now), 327_680, "{round} {spec:?}");
            key.refund(now, 327_680);
        }
    }
}

/// A state put together from receipts, in the order of their times, as it is after a crash.
fn rebuilt(spec: &RateSpec, receipts: &[&Receipts]) -> Key {
    let mut all: Vec<&Receipt> = receipts.iter().flat_map(|receipts| receipts.iter()).collect();
    all.sort_by_key(|receipt| receipt.at.steady);
    let mut key = Key::new(spec);
    for receipt in all {
        key.charge(receipt.at, receipt.cost);
    }
    key
}

fn survives_a_crash(spec: RateSpec, start: Micros, steps: &[Step]) -> (World, Key) {
    let takes: Vec<_> = steps.iter().copied().filter(|step| step.deed == Deed::Take).collect();
    let world = World::live(spec, start, &takes, |_| {});
    let lists: Vec<_> =
        world.sessions.iter().map(|session| session.transaction.innermost()).collect();
    let key = rebuilt(&spec, &lists);
    (world, key)
}

proptest! {
    #![proptest_config(common::cases(250))]

    #[test]
    fn what_is_rebuilt_from_receipts_is_what_was(spec in spec_that(|spec| !is_continuous(spec)), start in moment(), steps in steps(plain())) {
        let (world, key) = survives_a_crash(spec, start, &steps);
        prop_assert_eq!(outlook(&spec, &key, world.now), outlook(&spec, &world.key, world.now));
    }

    #[test]
    fn a_bucket_rebuilt_from_receipts_has_no_more(spec in spec_that(is_continuous), start in moment(), steps in steps(plain())) {
        let (mut world, key) = survives_a_crash(spec, start, &steps);
        world.key = key;
        world.has_no_more_than_its_replay();
    }

    /// That undoing what was taken back is safe is part of all histories above.
    #[test]
    fn what_is_taken_back_is_the_newest(costs in prop::collection::vec(1..9u64, 0..9), back in 0..60u64) {
        for spec in every_algorithm("1000/hour") {
            let mut key = Key::new(&spec);
            let (mut receipts, mut now) = (Receipts::default(), at(NOON));
            let mut made = Vec::new();
            for cost in &costs {
                // Too far apart to become one in a bucket.
                now = now.plus(2 * MINUTE);
                let receipt = take(&mut key, now, *cost).unwrap();
                receipts.add(&key.rule, receipt);
                made.extend(core::iter::repeat_n(now.steady, *cost as usize));
            }
            let before: u64 = costs.iter().sum();
            let taken = receipts.take_back(&key.rule, back);
            prop_assert_eq!((total(&taken), total(&receipts)), (back.min(before), before - back.min(before)));
            prop_assert_eq!(receipts.is_empty(), back >= before);
            // The others remember when the window or the period began.
            if spec.algorithm == Algorithm::SlidingLog || is_continuous(&spec) {
                let times = |list: &Receipts| -> Vec<_> {
                    let units = |one: &Receipt| core::iter::repeat_n(one.at.steady, one.cost as usize);
                    list.iter().flat_map(units).collect()
                };
                let rest = made.len() - total(&taken) as usize;
                prop_assert_eq!(times(&receipts), &made[..rest]);
                prop_assert_eq!(times(&taken), &made[rest..]);
            }
        }
    }

    /// In parts or at once, at one moment, it is the same.
    #[test]
    fn what_is_taken_back_in_parts_comes_back_whole(cost in 1..100u64, part in 0..100u64, held in 0..100u64) {
        for spec in every_algorithm("1000/hour") {
            let mut key = Key::new(&spec);
            key.charge(at(NOON), held);
            let before = key.clone();
            let mut transaction = Transaction::new();
            let receipt = take(&mut key, at(NOON), cost).unwrap();
            transaction.add(&key.rule, receipt);
            transaction.take_back(&mut key, at(NOON), part);
            prop_assert_eq!(key.remaining(at(NOON)), 1_000 - held - cost + part.min(cost));
            transaction.roll_back(&mut key, at(NOON));
            // But for 65536ths of the bucket.
            let remaining = key.remaining(at(NOON));
            let expected = before.remaining(at(NOON));
            prop_assert!(remaining == expected || is_continuous(&spec) && remaining + 1 == expected);
        }
    }
}
