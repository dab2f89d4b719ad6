//! Cells that open transactions hold.

use super::*;
use crate::Brief;

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
    // Nothing counts any more, but nobody knows when the transactions end.
    let in_a_second = Unable::Full(Full { until: LATER.plus(SECOND).steady });
    assert_eq!(table.try_take(&request(&rule, 2, 1), LATER), Err(in_a_second));
    commit(&table, &rule, 1, LATER);
    assert_eq!(table.try_take(&request(&rule, 2, 1), LATER), Ok(Brief::ALLOWED));
    assert_eq!(pins(&table, 0), Some(1));
}

#[test]
fn a_full_table_says_when_the_first_cell_that_is_not_held_is_free() {
    let memory = Memory::new(1);
    let mut table = memory.table();
    table.set_on_full(OnFull::Deny);
    let rule = |rate| rule(rate, Algorithm::FixedWindow);
    let (short, long) = (rule("9 per 100 ms"), rule("9 per 500 ms"));
    assert!(hold(&table, &short, 0, 1, START, &mut Receipts::default()));
    assert!(take(&table, &long, 1, START));
    let free = Unable::Full(Full { until: START.plus(SECOND / 2).steady });
    assert_eq!(table.try_take(&request(&short, 2, 1), START), Err(free));
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
    assert_eq!(table.try_take_with_receipt(&held(&rule, 0, 0), START), Ok((Brief::ALLOWED, None)));
    assert_eq!(table.try_take_with_receipt(&held(&rule, 0, 7), START), Ok((Brief::REFUSED, None)));
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
