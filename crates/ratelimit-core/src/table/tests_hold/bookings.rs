//! Moments that are booked in a table.

use super::*;
use crate::table::Record;
use crate::{reserve, Booking, Micros, SECOND};

fn book(table: &TestTable<'_>, requests: &[Request<'_>], now: Now) -> (Booking, Taken) {
    let mut taken = Taken::new();
    let booking = table.reserve(requests, now, None, Some(&mut taken)).unwrap();
    (booking, taken)
}

fn wait(table: &TestTable<'_>, rule: &Rule, n: u64, now: Now) -> Option<Micros> {
    book(table, &[request(rule, n, 1)], now).0.wait
}

fn receipts(rule: &Rule, taken: &Taken, n: usize) -> Receipts {
    let mut receipts = Receipts::default();
    receipts.add(rule, taken[n].unwrap());
    receipts
}

#[test]
fn keys_are_booked_together_and_cancelled_by_their_receipts() {
    for rule in rules("2 per hour") {
        let memory = Memory::new(100);
        let table = memory.table();
        assert!(take(&table, &rule, 0, START) && take(&table, &rule, 0, START));
        let both = [held(&rule, 0, 1), held(&rule, 1, 1)];
        let (booking, taken) = book(&table, &both, START);
        let wait = booking.wait.unwrap();
        assert!(wait > 0 && taken.iter().flatten().all(|one| one.at == START.plus(wait)));
        assert_eq!((pins(&table, 0), pins(&table, 1)), (Some(1), Some(1)));
        for n in 0..2 {
            table.undo(&rule, key(n), &receipts(&rule, &taken, n as usize), START, true);
        }
        assert_eq!((pins(&table, 0), pins(&table, 1)), (Some(0), Some(0)));
        assert_eq!(book(&table, &both, START).0.wait, Some(wait), "{rule:?}");
    }
}

#[test]
fn a_wait_that_is_too_long_gives_no_key_a_cell() {
    for rule in rules("1 per hour") {
        let memory = Memory::new(100);
        let table = memory.table();
        assert!(take(&table, &rule, 0, START));
        let both = [request(&rule, 0, 1), request(&rule, 1, 1)];
        let mut taken = Taken::new();
        let booking = table.reserve(&both, START, Some(SECOND), Some(&mut taken)).unwrap();
        assert_eq!((booking.wait, booking.decision.binding), (None, 0));
        assert!(taken.iter().all(Option::is_none));
        assert_eq!(pins(&table, 1), None, "{rule:?}");
    }
}

#[test]
fn nobody_passes_before_those_who_wait() {
    for rule in rules("3 per hour") {
        let memory = Memory::new(100);
        let table = memory.table();
        assert!(take(&table, &rule, 0, START));
        let (booking, _) = book(&table, &[request(&rule, 0, 3)], START);
        let then = START.plus(booking.wait.unwrap());
        for now in [START, START.plus(SECOND), Now::at(then.steady - 1)] {
            assert!(!take(&table, &rule, 0, now), "{rule:?}");
            assert!(!hold(&table, &rule, 0, 1, now, &mut Receipts::default()));
        }
    }
}

#[test]
fn a_key_is_not_pushed_out_while_somebody_waits_for_it() {
    for rule in rules("20 per minute") {
        let memory = Memory::new(50);
        let table = memory.table();
        while take(&table, &rule, 0, START) {}
        let waits: Vec<_> = (0..70).map(|_| wait(&table, &rule, 0, START).unwrap()).collect();
        let last = START.plus(*waits.last().unwrap());
        assert!(waits.is_sorted() && last.steady >= START.steady + 2 * MINUTE);
        for now in [START, START.plus(MINUTE), Now::at(last.steady - 1)] {
            flood(&table, 1..1_000, now);
            assert!(!take(&table, &rule, 0, now), "{rule:?}");
        }
        flood(&table, 1..3_000, last.plus(HOUR));
        assert_eq!(pins(&table, 0), None, "{rule:?}");
    }
}

#[test]
fn bookings_move_to_another_table() {
    for rule in rules("5 per minute") {
        let (memory, other) = (Memory::new(50), Memory::new(1_000));
        let (table, other) = (memory.table(), other.table());
        while take(&table, &rule, 0, START) {}
        for _ in 0..7 {
            assert!(wait(&table, &rule, 0, START).is_some());
        }
        let show = |record: &Record<'_>| {
            other.install(record, START.steady, |_| true).map(|installed| assert!(installed))
        };
        table.export(START.steady, show).unwrap();
        let asked = [request(&rule, 0, 1)];
        for now in [START, START.plus(61 * SECOND), START.plus(3 * MINUTE)] {
            let answer = |table: &TestTable<'_>| table.decide(&asked, now, Operation::Peek, None);
            assert_eq!(answer(&other), answer(&table), "{rule:?}");
        }
    }
}

#[test]
fn threads_book_as_if_one_came_after_the_other() {
    for rate in ["7 per minute", "100 per second"] {
        for n in 0..rules(rate).len() {
            let memory = Memory::new(100);
            let mut waits: Vec<Micros> = std::thread::scope(|scope| {
                let booker = || {
                    let (table, rules) = (memory.table(), rules(rate));
                    (0..50).map(|_| wait(&table, &rules[n], 1, START).unwrap()).collect::<Vec<_>>()
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(booker)).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            waits.sort_unstable();
            let rule = rules(rate).swap_remove(n);
            let mut state = MemoryState::default();
            let mut one = || reserve(&mut [Limit::new(&rule, &mut state, 1)], START, None).wait;
            assert_eq!(waits, (0..200).map(|_| one().unwrap()).collect::<Vec<_>>(), "{rule:?}");
        }
    }
}

/// A durable key that somebody waits for is filled in with its bookings.
#[test]
fn a_copy_brings_its_bookings() {
    for rule in rules("5 per minute") {
        let memory = Memory::new(1_000);
        let table = memory.table();
        let mut state = MemoryState::default();
        for _ in 0..12 {
            reserve(&mut [Limit::new(&rule, &mut state, 1)], START, None);
        }
        let one = durable(&rule, 0, 1);
        assert_eq!(table.claim(&one, 1, START), Ok(Claim::Fill(1)));
        table.fill(&one, 1, &state, START).unwrap();
        for now in [START, START.plus(61 * SECOND)] {
            flood(&table, 1..3_000, now);
            let answer = table.decide(&[one], now, Operation::Peek, None).unwrap();
            let mut limit = [Limit::new(&rule, &mut state, 1)];
            assert_eq!(answer, decide(&mut limit, now, Operation::Peek), "{rule:?}");
        }
    }
}
