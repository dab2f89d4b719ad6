//! What transactions hold in a table, and give back.

extern crate std;

mod bookings;
mod definitions;
mod durable;
mod pins;

use core::sync::atomic::Ordering;
use std::vec::Vec;

use proptest::prelude::*;

use super::tests::{key, request, rule, take, Memory, Threads, START};
use super::*;
use crate::{
    decide, parse_rates, Algorithm, Limit, MemoryState, Now, Operation, RateSpec, Receipts, Refill,
    Rule, HOUR, MINUTE,
};

type TestTable<'t> = Table<'t, &'t Threads>;

fn algorithms() -> [Algorithm; 4] {
    Algorithm::NAMES.map(|(_, algorithm)| algorithm)
}

/// Every way to count.
fn rules(rate: &str) -> Vec<Rule> {
    let interval = RateSpec {
        refill: Refill::Interval,
        ..parse_rates(rate, Algorithm::TokenBucket).unwrap()[0]
    };
    let rules = algorithms().map(|algorithm| rule(rate, algorithm));
    rules.into_iter().chain([interval.rule().unwrap()]).collect()
}

fn is_bucket(rule: &Rule) -> bool {
    matches!(rule, Rule::TokenBucket(_) | Rule::IntervalBucket(_))
}

/// The same for a transaction that may be rolled back.
fn held(rule: &Rule, n: u64, cost: u64) -> Request<'_> {
    Request { pin: true, ..request(rule, n, cost) }
}

fn durable(rule: &Rule, n: u64, cost: u64) -> Request<'_> {
    Request { durable: true, ..request(rule, n, cost) }
}

/// Takes and holds; the receipts are those of the transaction.
fn hold(
    table: &TestTable<'_>,
    rule: &Rule,
    n: u64,
    cost: u64,
    now: Now,
    receipts: &mut Receipts,
) -> bool {
    hold_as(table, &held(rule, n, cost), now, receipts)
}

fn hold_as(
    table: &TestTable<'_>,
    request: &Request<'_>,
    now: Now,
    receipts: &mut Receipts,
) -> bool {
    let (taken, receipt) = table.try_take_with_receipt(request, now).unwrap();
    assert_eq!(taken.allowed, receipt.is_some());
    if let Some(receipt) = receipt {
        receipts.add(request.rule, receipt);
    }
    taken.allowed
}

fn remaining(table: &TestTable<'_>, rule: &Rule, n: u64, now: Now) -> u64 {
    table.decide(&[request(rule, n, 0)], now, Operation::Peek, None).unwrap().remaining
}

fn pins(table: &TestTable<'_>, n: u64) -> Option<u16> {
    table.find(key(n)).map(|cell| cell.pins())
}

/// Lets go without giving back, as a commit does.
fn commit(table: &TestTable<'_>, rule: &Rule, n: u64, now: Now) {
    table.undo(rule, key(n), &Receipts::default(), now, true);
}

/// So many other keys want a place.
fn flood(table: &TestTable<'_>, keys: core::ops::Range<u64>, now: Now) {
    let roomy = rule("5 per hour", Algorithm::SlidingWindow);
    for n in keys {
        // What finds no place is no matter here.
        let _ = table.try_take(&request(&roomy, n, 1), now);
    }
}

#[test]
fn what_was_reset_is_not_given_back_as_well() {
    for rule in rules("9 per day") {
        let memory = Memory::new(50);
        let table = memory.table();
        let resets: [&dyn Fn(); 3] = [
            &|| assert!(table.reset(key(0), 0..1, START.steady)),
            &|| assert_eq!(table.reset_all(7, START.steady), 1),
            // Two are as good as one.
            &|| {
                table.reset(key(0), 0..1, START.steady);
                table.reset_all(7, START.steady);
            },
        ];
        for reset in resets {
            let mut receipts = Receipts::default();
            assert!(hold(&table, &rule, 0, 5, START, &mut receipts));
            reset();
            assert_eq!(remaining(&table, &rule, 0, START), 9);
            assert_eq!(pins(&table, 0), Some(1));
            let mut others = Receipts::default();
            assert!(hold(&table, &rule, 0, 6, START, &mut others));
            table.undo(&rule, key(0), &receipts, START, true);
            assert_eq!(remaining(&table, &rule, 0, START), 3, "{rule:?}");
            // What was taken after the reset does come back.
            table.undo(&rule, key(0), &others, START, true);
            assert_eq!(remaining(&table, &rule, 0, START), 9, "{rule:?}");
        }
    }
}

#[test]
fn a_rollback_gives_back_all_that_a_transaction_took() {
    for rule in rules("9 per day") {
        let memory = Memory::new(50);
        let table = memory.table();
        let mut receipts = Receipts::default();
        for n in 0..3 {
            assert!(hold(&table, &rule, 0, 3, START.plus(n * 5 * MINUTE), &mut receipts));
        }
        let now = START.plus(15 * MINUTE);
        table.undo(&rule, key(0), &receipts, now, true);
        // A bucket loses up to a 65536th of itself with each.
        let then = if is_bucket(&rule) { now.plus(4 * SECOND) } else { now };
        assert_eq!(remaining(&table, &rule, 0, then), 9, "{rule:?}");
    }
}

#[test]
fn a_savepoint_that_is_rolled_back_costs_nothing_of_what_was_before() {
    for rule in rules("9 per day") {
        let memory = Memory::new(50);
        let table = memory.table();
        let (mut outer, mut inner) = (Receipts::default(), Receipts::default());
        assert!(hold(&table, &rule, 0, 4, START, &mut outer));
        for now in [START, START.plus(SECOND)] {
            assert!(hold(&table, &rule, 0, 2, now, &mut inner));
        }
        let now = START.plus(2 * SECOND);
        outer.moved_up(table.undo(&rule, key(0), &inner, now, false));
        table.undo(&rule, key(0), &outer, now, false);
        let then = if is_bucket(&rule) { now.plus(3 * SECOND) } else { now };
        assert_eq!(remaining(&table, &rule, 0, then), 9, "{rule:?}");
    }
}

#[test]
fn what_is_taken_back_costs_nothing_of_the_rest() {
    for rule in rules("9 per day") {
        let memory = Memory::new(50);
        let table = memory.table();
        let mut receipts = Receipts::default();
        assert!(hold(&table, &rule, 0, 3, START, &mut receipts));
        assert!(hold(&table, &rule, 0, 6, START.plus(5 * MINUTE), &mut receipts));
        let now = START.plus(5 * MINUTE);
        let part = receipts.take_back(&rule, 2);
        receipts.moved_up(table.undo(&rule, key(0), &part, now, false));
        assert_eq!(remaining(&table, &rule, 0, now), 2, "{rule:?}");
        table.undo(&rule, key(0), &receipts, now, false);
        let then = if is_bucket(&rule) { now.plus(4 * SECOND) } else { now };
        assert_eq!(remaining(&table, &rule, 0, then), 9, "{rule:?}");
    }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (0..5usize, prop::sample::select(std::vec!["7 per minute", "100 per minute", "7 per hour"]))
        .prop_map(|(n, rate)| rules(rate).swap_remove(n))
}

/// As a table does.
fn undo_all(rule: &Rule, state: &mut MemoryState, receipts: &Receipts, now: Now) -> u32 {
    receipts.undo(|receipt| Limit::new(rule, &mut *state, 0).undo(now, receipt))
}

proptest! {
    /// The table undoes as a state in ordinary memory does, whether the key is durable or not.
    #[test]
    fn a_table_gives_back_like_a_map(
        rule in any_rule(),
        is_durable: bool,
        steps in prop::collection::vec((0u64..3, 0u64..9, 0i64..20_000_000, 0u8..8), 1..120),
    ) {
        let memory = Memory::new(1_000);
        let table = memory.table();
        let mut states: [MemoryState; 3] = Default::default();
        let mut open: [(Receipts, Receipts, u16); 3] = Default::default();
        if is_durable {
            for (n, state) in states.iter_mut().enumerate() {
                // It has a past.
                Limit::new(&rule, &mut *state, 3).charge(START);
                let one = durable(&rule, n as u64, 0);
                prop_assert_eq!(table.claim(&one, 1, START), Ok(Claim::Fill(1)));
                table.fill(&one, 1, state, START).unwrap();
            }
        }
        let mut now = START;
        for (n, cost, wait, action) in steps {
            now = now.plus(wait);
            let request = Request { durable: is_durable, pin: true, ..request(&rule, n, cost) };
            let state = &mut states[n as usize];
            let (receipts, expected, holds) = &mut open[n as usize];
            // Without a hold the copy of a durable key may be gone once nothing counts any more; here nobody wants its place.
            match action {
                0 => {
                    let steps = table.undo(&rule, key(n), receipts, now, false);
                    prop_assert_eq!(steps, undo_all(&rule, state, expected, now));
                    for _ in 0..core::mem::take(holds) {
                        commit(&table, &rule, n, now);
                    }
                    (*receipts, *expected) = Default::default();
                }
                1 => {
                    let (one, other) = (receipts.take_back(&rule, cost), expected.take_back(&rule, cost));
                    let steps = table.undo(&rule, key(n), &one, now, false);
                    prop_assert_eq!(steps, undo_all(&rule, state, &other, now));
                    for rest in [receipts, expected] {
                        rest.moved_up(steps);
                    }
                }
                2 => {
                    let mut taken = Taken::new();
                    table.charge(&[request], now, Some(&mut taken)).unwrap();
                    let mut limit = Limit::new(&rule, &mut *state, cost);
                    limit.charge(now);
                    prop_assert_eq!(taken[0].map(|one| one.cost), limit.receipt().map(|one| one.cost));
                    if let (Some(one), Some(other)) = (taken[0], limit.receipt()) {
                        receipts.add(&rule, one);
                        expected.add(&rule, other);
                        *holds += 1;
                    }
                }
                _ => {
                    let (taken, receipt) = table.try_take_with_receipt(&request, now).unwrap();
                    let mut limit = Limit::new(&rule, &mut *state, cost);
                    prop_assert_eq!(taken, limit.try_take_with_receipt(now));
                    if let (Some(one), Some(other)) = (receipt, limit.receipt()) {
                        receipts.add(&rule, one);
                        expected.add(&rule, other);
                        *holds += 1;
                    }
                }
            }
            for probe in [0, 1, 7] {
                let request = Request { cost: probe, ..request };
                prop_assert_eq!(
                    table.decide(&[request], now, Operation::Peek, None).unwrap(),
                    decide(&mut [Limit::new(&rule, &mut *state, probe)], now, Operation::Peek)
                );
            }
            prop_assert_eq!(pins(&table, n).unwrap_or(0), *holds);
        }
    }
}
