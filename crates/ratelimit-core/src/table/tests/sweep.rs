//! Sweeping: what has expired goes, and nothing else.

use std::sync::atomic::AtomicBool;

use super::*;

/// When a key of [`short`] that was used at [`START`] may be swept.
const LATER: Micros = START.steady + MINUTE_AND_MORE;
const MINUTE_AND_MORE: Micros = 62 * SECOND;

fn short() -> Rule {
    rule("1 per minute", Algorithm::TokenBucket)
}

fn long() -> Rule {
    rule("1 per hour", Algorithm::TokenBucket)
}

fn used(memory: &Memory) -> usize {
    memory.cells.iter().filter(|cell| !cell.is_empty()).count()
}

#[test]
fn what_has_expired_leaves_no_trace() {
    let memory = Memory::new(10_000);
    let (table, rule) = (memory.table(), short());
    assert!((0..9_000).all(|n| take(&table, &rule, n, START)));
    assert_eq!(table.sweep(START.steady + 59 * SECOND), 0);
    assert_eq!(used(&memory), 9_000);
    assert_eq!(table.sweep(LATER), 9_000);
    // Once more for those at the end of a partition.
    assert_eq!(table.sweep(LATER), 0);
    assert_eq!(used(&memory), 0);
    assert!((0..9_000).all(|n| take(&table, &rule, n, START.plus(MINUTE_AND_MORE))));
}

#[test]
fn a_search_still_gets_past_what_has_expired() {
    let memory = Memory::new(10_000);
    let (table, short, long) = (memory.table(), short(), long());
    for n in 0..9_000 {
        assert!(take(&table, if n % 3 == 0 { &long } else { &short }, n, START));
    }
    assert_eq!(table.sweep(LATER), 6_000);
    assert!(used(&memory) < 5_000, "{} cells are not empty", used(&memory));
    assert_eq!(table.keys(LATER), 3_000);
    for n in (0..9_000).step_by(3) {
        assert!(!take(&table, &long, n, START.plus(MINUTE_AND_MORE)), "{n} was forgotten");
    }
}

#[test]
fn a_log_is_swept_with_its_further_cells() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("100 per minute", Algorithm::SlidingLog));
    let all = [request(&rule, 1, 100)];
    assert!(table.decide(&all, START, Operation::Take, None).unwrap().allowed);
    assert!(table.sweep(LATER) > 30);
    table.sweep(LATER);
    assert_eq!(used(&memory), 0);
    let again = table.decide(&all, START.plus(MINUTE_AND_MORE), Operation::Take, None);
    assert!(again.unwrap().allowed);
}

#[test]
fn a_key_of_a_full_table_is_found_while_it_is_swept() {
    const LIVE: u64 = 500;
    let memory = Memory::new(1_000);
    assert!((0..LIVE).all(|n| take(&memory.table(), &long(), n, START)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Each round expires before the next is swept: places become empty and are taken again all the time.
        scope.spawn(|| {
            let (table, short) = (memory.table(), short());
            for round in 1..=40 {
                let now = START.plus(round * MINUTE_AND_MORE);
                for n in 0..400 {
                    take(&table, &short, 1_000 * round as u64 + n, now);
                }
                table.sweep(now.steady);
            }
            done.store(true, Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let (table, long) = (memory.table(), long());
                while !done.load(Ordering::Relaxed) {
                    for n in 0..LIVE {
                        assert!(!take(&table, &long, n, START), "{n} was not found");
                    }
                }
            });
        }
    });
    assert_eq!(memory.evictions.load(Ordering::Relaxed), 0);
}
