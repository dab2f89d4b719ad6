//! What transactions hold in a table, and the copies of durable keys.

extern crate std;

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
    let (taken, receipt) = table.try_take_with_receipt(&held(rule, n, cost), now).unwrap();
    assert_eq!(taken, receipt.is_some());
    if let Some(receipt) = receipt {
        receipts.add(rule, receipt);
    }
    taken
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

/// Past everything that the rules of these tests count.
const LATER: Now = START.plus(1_000 * HOUR);

#[test]
fn a_cell_that_is_held_stays_though_it_is_free_and_the_table_full() {
    for rule in rules("9 per minute") {
        let memory = Memory::new(50);
        let table = memory.table();
        let mut receipts = Receipts::default();
        assert!(hold(&table, &rule, 0, 3, START, &mut receipts));
        for now in [START, LATER] {
            flood(&table, 1..2_000, now);
            assert_eq!(pins(&table, 0), Some(1), "{rule:?}");
        }
        assert_eq!(remaining(&table, &rule, 0, LATER), 9);
        table.undo(&rule, key(0), &receipts, LATER, true);
        assert_eq!(pins(&table, 0), Some(0));
        flood(&table, 2_000..4_000, LATER);
        assert_eq!(pins(&table, 0), None, "{rule:?}");
    }
}

#[test]
fn what_is_given_back_in_a_full_table_comes_back() {
    for rule in rules("9 per day") {
        let memory = Memory::new(50);
        let table = memory.table();
        let mut receipts = Receipts::default();
        assert!(hold(&table, &rule, 0, 4, START, &mut receipts));
        flood(&table, 1..2_000, START);
        assert!(hold(&table, &rule, 0, 5, START, &mut Receipts::default()));
        assert!(!hold(&table, &rule, 0, 1, START, &mut receipts));
        flood(&table, 1..2_000, START);
        table.undo(&rule, key(0), &receipts, START, true);
        assert_eq!(remaining(&table, &rule, 0, START), 4, "{rule:?}");
        assert_eq!(pins(&table, 0), Some(1));
        commit(&table, &rule, 0, START);
        assert_eq!(pins(&table, 0), Some(0));
    }
}

#[test]
fn when_all_cells_are_held_a_new_key_is_refused_and_later_let_in() {
    let memory = Memory::new(1);
    let (table, rule) = (memory.table(), rule("9 per minute", Algorithm::FixedWindow));
    for n in 0..2 {
        assert!(hold(&table, &rule, n, 1, START, &mut Receipts::default()));
    }
    assert!(matches!(table.try_take(&request(&rule, 2, 1), LATER), Err(Unable::Full(_))));
    commit(&table, &rule, 1, LATER);
    assert_eq!(table.try_take(&request(&rule, 2, 1), LATER), Ok(true));
    assert_eq!(pins(&table, 0), Some(1));
}

#[test]
#[ignore = "fails: the wait is reckoned as if nobody held the cells, and may be over already"]
fn who_finds_all_cells_held_is_told_to_come_later() {
    let memory = Memory::new(1);
    let (table, rule) = (memory.table(), rule("9 per minute", Algorithm::FixedWindow));
    for n in 0..2 {
        assert!(hold(&table, &rule, n, 1, START, &mut Receipts::default()));
    }
    let Err(Unable::Full(full)) = table.try_take(&request(&rule, 2, 1), LATER) else {
        panic!("there was room");
    };
    assert!(full.until > LATER.steady);
}

#[test]
fn a_cell_is_held_as_often_as_it_was_taken_from() {
    let memory = Memory::new(50);
    let (table, rule) = (memory.table(), rule("9 per minute", Algorithm::TokenBucket));
    for n in 1..=3 {
        assert!(hold(&table, &rule, 0, 1, START, &mut Receipts::default()));
        assert_eq!(pins(&table, 0), Some(n));
    }
    // What takes nothing holds nothing.
    assert_eq!(table.try_take_with_receipt(&held(&rule, 0, 0), START), Ok((true, None)));
    assert_eq!(table.try_take_with_receipt(&held(&rule, 0, 7), START), Ok((false, None)));
    assert_eq!(pins(&table, 0), Some(3));
    // Giving back need not let go.
    table.undo(&rule, key(0), &Receipts::default(), START, false);
    assert_eq!(pins(&table, 0), Some(3));
    for n in (0..3).rev() {
        commit(&table, &rule, 0, START);
        assert_eq!(pins(&table, 0), Some(n));
    }
    commit(&table, &rule, 0, START);
    assert_eq!(pins(&table, 0), Some(0));
}

#[test]
fn more_than_65535_transactions_cannot_hold_a_cell() {
    let memory = Memory::new(50);
    let (table, rule) = (memory.table(), rule("100000 per day", Algorithm::FixedWindow));
    for _ in 0..u16::MAX {
        assert!(hold(&table, &rule, 0, 1, START, &mut Receipts::default()));
    }
    let crowded = Unable::Full(Full { until: START.plus(SECOND).steady });
    let one = held(&rule, 0, 1);
    assert_eq!(table.try_take_with_receipt(&one, START), Err(crowded));
    assert_eq!(table.decide(&[one], START, Operation::Take, None), Err(crowded));
    assert_eq!(table.take_at_most(&[one], START, None), Err(crowded));
    assert_eq!(table.charge(&[one], START, None), Err(crowded));
    assert_eq!(remaining(&table, &rule, 0, START), 100_000 - 65_535);
    // Who holds nothing can take.
    assert!(take(&table, &rule, 0, START));
    commit(&table, &rule, 0, START);
    assert!(hold(&table, &rule, 0, 1, START, &mut Receipts::default()));
    assert_eq!(pins(&table, 0), Some(u16::MAX));
}

#[test]
fn several_requests_are_held_together_or_not_at_all() {
    let memory = Memory::new(50);
    let table = memory.table();
    let (first, second) =
        (rule("9 per day", Algorithm::SlidingLog), rule("5 per day", Algorithm::FixedWindow));
    let requests = |cost| [held(&second, 2, cost), held(&first, 1, cost)];
    let mut taken = Taken::new();
    assert!(table.decide(&requests(3), START, Operation::Take, Some(&mut taken)).unwrap().allowed);
    assert_eq!((pins(&table, 1), pins(&table, 2)), (Some(1), Some(1)));
    let mut refused = Taken::new();
    assert!(
        !table.decide(&requests(3), START, Operation::Take, Some(&mut refused)).unwrap().allowed
    );
    assert!(refused.iter().all(Option::is_none));
    assert_eq!((pins(&table, 1), pins(&table, 2)), (Some(1), Some(1)));
    let mut most = Taken::new();
    assert_eq!(table.take_at_most(&requests(9), START, Some(&mut most)), Ok(2));
    assert!(most.iter().all(|receipt| receipt.is_some_and(|receipt| receipt.cost == 2)));
    for receipts in [taken, most] {
        for (request, receipt) in requests(0).iter().zip(receipts) {
            let mut list = Receipts::default();
            list.add(request.rule, receipt.unwrap());
            table.undo(request.rule, request.key, &list, START, true);
        }
    }
    assert_eq!((pins(&table, 1), pins(&table, 2)), (Some(0), Some(0)));
    assert_eq!(remaining(&table, &first, 1, START), 9);
    assert_eq!(remaining(&table, &second, 2, START), 5);
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
fn what_was_taken_under_another_algorithm_is_not_given_back() {
    for before in rules("9 per day") {
        for after in rules("9 per day") {
            if before.kind() == after.kind() {
                continue;
            }
            let memory = Memory::new(50);
            let table = memory.table();
            let mut receipts = Receipts::default();
            assert!(hold(&table, &before, 0, 5, START, &mut receipts));
            assert!(take(&table, &after, 0, START));
            table.undo(&before, key(0), &receipts, START, true);
            assert_eq!(remaining(&table, &after, 0, START), 8, "{before:?} {after:?}");
        }
    }
}

#[test]
#[ignore = "fails: a key that begins afresh under another algorithm keeps its epoch"]
fn what_was_taken_before_another_algorithm_and_back_is_not_given_back() {
    for rule in rules("9 per day") {
        let other = self::rule("9 per day", Algorithm::SlidingWindow);
        if rule.kind() == other.kind() {
            continue;
        }
        let memory = Memory::new(50);
        let table = memory.table();
        let mut receipts = Receipts::default();
        assert!(hold(&table, &rule, 0, 5, START, &mut receipts));
        assert!(take(&table, &other, 0, START));
        assert!(take(&table, &rule, 0, START));
        table.undo(&rule, key(0), &receipts, START, true);
        assert_eq!(remaining(&table, &rule, 0, START), 8, "{rule:?}");
    }
}

#[test]
#[ignore = "fails for buckets: what came back from behind counts as if it had been in front"]
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
        assert_eq!(remaining(&table, &rule, 0, now), 9, "{rule:?}");
    }
}

/// Everything that decides about a key.
fn answers(table: &TestTable<'_>, one: Request<'_>) -> Vec<Option<Unable>> {
    std::vec![
        table.try_take_with_receipt(&one, START).err(),
        table.decide(&[one], START, Operation::Take, None).err(),
        table.decide(&[one], START, Operation::Peek, None).err(),
        table.take_at_most(&[one], START, None).err(),
        table.charge(&[one], START, None).err(),
        table.refund(&[one], START).err(),
    ]
}

#[test]
fn a_durable_key_is_not_decided_about_until_it_is_filled() {
    for rule in rules("1000 per day") {
        let memory = Memory::new(1_000);
        let (table, one) = (memory.table(), durable(&rule, 1, 1));
        let unloaded = |table| answers(table, one).iter().all(|err| *err == Some(Unable::Unloaded));
        assert!(unloaded(&table), "not there");
        assert_eq!(table.claim(&one, 5, START), Ok(Some(5)));
        assert!(unloaded(&table), "claimed");
        table.fill(&one, 5, &MemoryState::default(), START).unwrap();
        assert!(answers(&table, one).iter().all(Option::is_none), "filled: {rule:?}");
        assert_eq!(table.claim(&one, 6, START), Ok(None));
        table.discard(key(1));
        assert!(unloaded(&table), "discarded");
    }
}

#[test]
fn a_key_that_was_in_memory_only_must_be_filled_when_it_becomes_durable() {
    for rule in rules("1000 per day") {
        let memory = Memory::new(1_000);
        let table = memory.table();
        let mut receipts = Receipts::default();
        assert!(hold(&table, &rule, 1, 5, START, &mut receipts));
        let one = durable(&rule, 1, 0);
        assert_eq!(table.decide(&[one], START, Operation::Peek, None), Err(Unable::Unloaded));
        assert_eq!(table.claim(&one, 9, START), Ok(Some(9)));
        table.fill(&one, 9, &MemoryState::default(), START).unwrap();
        assert!(
            table.decide(&[durable(&rule, 1, 4)], START, Operation::Take, None).unwrap().allowed
        );
        // What was held before is not in the copy.
        table.undo(&rule, key(1), &receipts, START, true);
        assert_eq!(remaining(&table, &rule, 1, START), 996, "{rule:?}");
        assert_eq!(pins(&table, 1), Some(0));
    }
}

fn used(rule: &Rule, cost: u64, now: Now) -> MemoryState {
    let mut state = MemoryState::default();
    Limit::new(rule, &mut state, cost).charge(now);
    state
}

#[test]
fn two_who_load_a_key_share_a_ticket_and_the_first_one_fills_it() {
    for rule in rules("10 per day") {
        let memory = Memory::new(100);
        let (table, one) = (memory.table(), durable(&rule, 1, 0));
        assert_eq!(table.claim(&one, 5, START), Ok(Some(5)));
        assert_eq!(table.claim(&one, 6, START), Ok(Some(5)));
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        let take = table.decide(&[durable(&rule, 1, 2)], START, Operation::Take, None);
        assert_eq!(take.unwrap().remaining, 5, "{rule:?}");
        // The other one has read the same, but comes too late for it.
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        assert_eq!(remaining(&table, &rule, 1, START), 5, "{rule:?}");
    }
}

#[test]
fn a_ticket_is_worth_nothing_once_the_cell_was_discarded_or_pushed_out() {
    for rule in rules("10 per day") {
        let memory = Memory::new(50);
        let (table, one) = (memory.table(), durable(&rule, 1, 0));
        let discard: [(&dyn Fn(), Now); 2] = [
            (&|| table.discard(key(1)), START),
            (&|| flood(&table, 100..3_000, START.plus(2 * SECOND)), START.plus(2 * SECOND)),
        ];
        for (n, (forget, now)) in discard.into_iter().enumerate() {
            let (old, new) = (2 * n as u64 + 1, 2 * n as u64 + 2);
            assert_eq!(table.claim(&one, old, START), Ok(Some(old)));
            forget();
            table.fill(&one, old, &used(&rule, 9, START), now).unwrap();
            assert_eq!(table.decide(&[one], now, Operation::Peek, None), Err(Unable::Unloaded));
            assert_eq!(table.claim(&one, new, now), Ok(Some(new)));
            table.fill(&one, old, &used(&rule, 9, START), now).unwrap();
            assert_eq!(table.decide(&[one], now, Operation::Peek, None), Err(Unable::Unloaded));
            table.fill(&one, new, &used(&rule, 3, START), now).unwrap();
            assert_eq!(remaining(&table, &rule, 1, START), 7, "{rule:?}");
            table.discard(key(1));
        }
    }
}

#[test]
fn a_claimed_cell_is_not_pushed_out_while_it_is_being_loaded() {
    let memory = Memory::new(50);
    let (table, rule) = (memory.table(), rule("10 per day", Algorithm::FixedWindow));
    let one = durable(&rule, 1, 0);
    assert_eq!(table.claim(&one, 5, START), Ok(Some(5)));
    flood(&table, 100..3_000, START.plus(SECOND / 2));
    table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
    assert_eq!(table.claim(&one, 6, START), Ok(None));
    assert_eq!(remaining(&table, &rule, 1, START), 7);
}

#[test]
fn a_log_of_a_thousand_is_filled_whole() {
    let log = rule("1000 per day", Algorithm::SlidingLog);
    let memory = Memory::new(2_000);
    let (table, one) = (memory.table(), durable(&log, 1, 0));
    let mut state = MemoryState::default();
    for n in 0..1_000 {
        Limit::new(&log, &mut state, 1).charge(START.plus(n * MINUTE));
    }
    let now = START.plus(1_000 * MINUTE);
    assert_eq!(table.claim(&one, 5, now), Ok(Some(5)));
    table.fill(&one, 5, &state, now).unwrap();
    for later in (0..3_000).step_by(7) {
        let then = now.plus(later * MINUTE);
        for cost in [0, 1, 500, 1_000] {
            let expected = decide(&mut [Limit::new(&log, &mut state, cost)], then, Operation::Peek);
            let asked = durable(&log, 1, cost);
            assert_eq!(table.decide(&[asked], then, Operation::Peek, None), Ok(expected));
        }
    }
}

#[test]
fn a_log_that_finds_no_room_is_not_filled_by_half() {
    let log = rule("1000 per day", Algorithm::SlidingLog);
    let memory = Memory::new(100);
    let (table, one) = (memory.table(), durable(&log, 1, 0));
    assert_eq!(table.claim(&one, 5, START), Ok(Some(5)));
    assert!(table.fill(&one, 5, &used(&log, 700, START), START).is_err());
    assert_eq!(table.decide(&[one], START, Operation::Peek, None), Err(Unable::Unloaded));
}

#[test]
fn what_is_held_is_not_discarded() {
    for rule in rules("10 per day") {
        let memory = Memory::new(100);
        let (table, one) = (memory.table(), durable(&rule, 1, 2));
        assert_eq!(table.claim(&one, 5, START), Ok(Some(5)));
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        let mut taken = Taken::new();
        let held = Request { pin: true, ..one };
        table.decide(&[held], START, Operation::Take, Some(&mut taken)).unwrap();
        table.discard(key(1));
        assert_eq!(remaining(&table, &rule, 1, START), 5, "{rule:?}");
        let mut receipts = Receipts::default();
        receipts.add(&rule, taken[0].unwrap());
        table.undo(&rule, key(1), &receipts, START, true);
        assert_eq!(remaining(&table, &rule, 1, START), 7, "{rule:?}");
        table.discard(key(1));
        assert!(table.decide(&[one], START, Operation::Peek, None).is_err());
    }
}

#[test]
fn a_durable_key_that_is_wiped_is_new_and_gives_nothing_back() {
    for rule in rules("10 per day") {
        let memory = Memory::new(100);
        let table = memory.table();
        let one = Request { pin: true, ..durable(&rule, 1, 4) };
        // Nothing is there to wipe, and nothing is made.
        table.wipe(key(1));
        assert_eq!(table.claim(&one, 5, START), Ok(Some(5)));
        // What is being loaded may be what was before: it is not for the wipe to say.
        table.wipe(key(1));
        assert_eq!(table.claim(&one, 6, START), Ok(Some(5)));
        table.fill(&one, 5, &used(&rule, 3, START), START).unwrap();
        let (_, receipt) = table.try_take_with_receipt(&one, START).unwrap();
        table.wipe(key(1));
        assert_eq!(pins(&table, 1), Some(1));
        let peek = table.decide(&[durable(&rule, 1, 0)], START, Operation::Peek, None);
        assert_eq!(peek.unwrap().remaining, 10, "{rule:?}");
        assert!(table.try_take_with_receipt(&one, START).unwrap().0);
        let mut receipts = Receipts::default();
        receipts.add(&rule, receipt.unwrap());
        table.undo(&rule, key(1), &receipts, START, true);
        assert_eq!(remaining(&table, &rule, 1, START), 6, "{rule:?}");
    }
}

#[test]
fn threads_that_take_and_roll_back_under_pressure_end_with_the_right_count() {
    const QUOTA: u64 = 900;
    for rate in rules("900 per day").iter().map(Rule::kind) {
        // Rules are not shared between threads.
        let the_rule =
            || rules("900 per day").into_iter().find(|rule| rule.kind() == rate).unwrap();
        let memory = Memory::new(600);
        let kept = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let (memory, kept, the_rule) = (&memory, &kept, &the_rule);
                scope.spawn(move || {
                    let (table, rule) = (memory.table(), the_rule());
                    for n in 0..150 {
                        let mut receipts = Receipts::default();
                        let mut holds = 0;
                        for cost in 1..=3 {
                            holds += u64::from(hold(&table, &rule, 5, cost, START, &mut receipts));
                        }
                        let empty = Receipts::default();
                        let keep = (n + thread) % 2 == 0;
                        let sum: u64 = receipts.iter().map(|receipt| receipt.cost).sum();
                        kept.fetch_add(if keep { sum } else { 0 }, Ordering::Relaxed);
                        // One of the cell's holds gives back, the others only let go.
                        for hold in 0..holds {
                            let undone = if keep || hold > 0 { &empty } else { &receipts };
                            table.undo(&rule, key(5), undone, START, true);
                        }
                    }
                });
            }
            scope.spawn(|| {
                let table = memory.table();
                for round in 0..20u64 {
                    flood(&table, 10_000 + round * 200..10_400 + round * 200, START);
                }
            });
        });
        let (table, rule) = (memory.table(), the_rule());
        let kept = kept.into_inner();
        assert!(kept <= QUOTA);
        let left = remaining(&table, &rule, 5, START);
        if is_bucket(&rule) {
            assert!(left <= QUOTA - kept, "{rule:?}");
        } else {
            assert_eq!(left, QUOTA - kept, "{rule:?}");
        }
        // The cell may be gone if nothing of it counts any more.
        assert_eq!(pins(&table, 5).unwrap_or(0), 0);
    }
}

#[test]
fn threads_that_load_a_key_at_once_fill_it_once() {
    for kind in rules("500 per day").iter().map(Rule::kind) {
        let the_rule =
            || rules("500 per day").into_iter().find(|rule| rule.kind() == kind).unwrap();
        let memory = Memory::new(1_000);
        let admitted = AtomicU64::new(0);
        let tickets = AtomicU64::new(1);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                let (memory, admitted, tickets, the_rule) =
                    (&memory, &admitted, &tickets, &the_rule);
                scope.spawn(move || {
                    let (table, rule) = (memory.table(), the_rule());
                    let one = durable(&rule, 5, 1);
                    // What the tables say; all that is taken here is of transactions that are still open.
                    let copy = used(&rule, 200, START);
                    for _ in 0..100 {
                        loop {
                            let held = Request { pin: true, ..one };
                            match table.try_take_with_receipt(&held, START) {
                                Ok((taken, _)) => {
                                    admitted.fetch_add(u64::from(taken), Ordering::Relaxed);
                                    break;
                                }
                                Err(Unable::Full(full)) => panic!("{full:?}"),
                                Err(Unable::Unloaded) => {
                                    let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                                    let claimed = table.claim(&one, ticket, START).unwrap();
                                    if let Some(ticket) = claimed {
                                        table.fill(&one, ticket, &copy, START).unwrap();
                                    }
                                }
                            }
                        }
                        // Does nothing: it is held.
                        table.discard(key(5));
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 300, "{kind}");
    }
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (0..5usize, prop::sample::select(std::vec!["7 per minute", "100 per minute", "7 per hour"]))
        .prop_map(|(n, rate)| rules(rate).swap_remove(n))
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
                prop_assert_eq!(table.claim(&one, 1, START), Ok(Some(1)));
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
                    table.undo(&rule, key(n), receipts, now, false);
                    for receipt in expected.iter().rev() {
                        Limit::new(&rule, &mut *state, 0).undo(now, receipt);
                    }
                    for _ in 0..core::mem::take(holds) {
                        commit(&table, &rule, n, now);
                    }
                    (*receipts, *expected) = Default::default();
                }
                1 => {
                    let (one, other) = (receipts.take_back(cost), expected.take_back(cost));
                    table.undo(&rule, key(n), &one, now, false);
                    for receipt in other.iter().rev() {
                        Limit::new(&rule, &mut *state, 0).undo(now, receipt);
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
