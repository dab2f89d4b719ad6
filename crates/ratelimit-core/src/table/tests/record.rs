//! States that leave one table and enter another.

use core::convert::Infallible;

use super::*;
use crate::table::Record;

/// A record with times of its own.
type Owned = (Record<'static>, Vec<u64>);

fn export(table: &Table<'_, &Threads>, now: Now) -> Vec<Owned> {
    let mut records = Vec::new();
    let shown: Result<(), Infallible> = table.export(now.steady, |record| {
        records.push((Record { times: &[], ..*record }, record.times.to_vec()));
        Ok(())
    });
    shown.unwrap();
    records
}

/// How many did not fit.
fn install(table: &Table<'_, &Threads>, records: &[Owned], now: Now) -> usize {
    let refused = |(record, times): &&Owned| {
        table.install(&Record { times, ..*record }, now.steady, |_| true).is_err()
    };
    records.iter().filter(refused).count()
}

fn charge(table: &Table<'_, &Threads>, rule: &Rule, n: u64, cost: u64, now: Now) {
    table.charge(&[request(rule, n, cost)], now, None).unwrap();
}

fn peek(table: &Table<'_, &Threads>, rule: &Rule, n: u64, now: Now) -> Decision {
    table.decide(&[request(rule, n, 1)], now, Operation::Peek, None).unwrap()
}

#[test]
fn what_is_as_good_as_new_is_not_shown() {
    let memory = Memory::new(100);
    let (table, rule) = (memory.table(), rule("2 per minute", Algorithm::TokenBucket));
    assert!(take(&table, &rule, 1, START));
    assert!(take(&table, &rule, 2, START.plus(SECOND)));
    let later = START.plus(30 * SECOND);
    let records = export(&table, later);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].0.key, key(2));
    assert!(export(&table, START.plus(60 * SECOND)).is_empty());
}

#[test]
fn a_log_brings_only_the_times_that_it_has() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("1000 per day", Algorithm::SlidingLog));
    for n in 0..5 {
        charge(&table, &rule, 1, 1, START.plus(n));
    }
    let records = export(&table, START);
    assert_eq!(records.len(), 1, "further cells are part of their log");
    assert_eq!(records[0].1.len(), 5);
    assert!(records[0].1.is_sorted());
}

#[test]
fn a_smaller_table_keeps_who_refuses() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("2 per hour", Algorithm::FixedWindow));
    for n in 0..1_000 {
        charge(&table, &rule, n, if n % 20 == 0 { 2 } else { 1 }, START);
    }
    let small = Memory::new(100);
    let records = export(&table, START);
    assert_eq!(install(&small.table(), &records, START), 0);
    assert_eq!(small.evictions.load(Ordering::Relaxed), 800);
    assert!((0..1_000).step_by(20).all(|n| !peek(&small.table(), &rule, n, START).allowed));
}

#[test]
fn what_does_not_fit_at_all_is_said() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("1 per hour", Algorithm::FixedWindow));
    assert!((0..1_000).all(|n| take(&table, &rule, n, START)));
    let small = Memory::new(100);
    assert_eq!(install(&small.table(), &export(&table, START), START), 800);
    assert_eq!(small.table().keys(START.steady), 200);
}

#[test]
fn a_state_replaces_another_where_that_is_accepted() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("100 per day", Algorithm::SlidingLog));
    charge(&table, &rule, 1, 30, START);
    let records = export(&table, START);
    charge(&table, &rule, 1, 70, START.plus(1));
    let record = Record { times: &records[0].1, ..records[0].0 };

    assert_eq!(table.install(&record, START.steady, |_| false), Ok(false));
    assert_eq!(peek(&table, &rule, 1, START).remaining, 0);
    assert_eq!(table.install(&record, START.steady, |_| true), Ok(true));
    assert_eq!(peek(&table, &rule, 1, START).remaining, 69);
}

#[test]
fn nonsense_is_harmless() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("5 per day", Algorithm::SlidingLog));
    let times = [u64::MAX; 1_000];
    for kind in 1..=5 {
        for word in [0, 1, 5, u64::MAX] {
            let record = Record {
                key: key(1),
                tag: 0,
                primary: false,
                kind,
                fresh: i64::MAX,
                open: i64::MAX,
                words: [word; 3],
                times: &times,
            };
            assert_eq!(table.install(&record, START.steady, |_| true), Ok(true));
            peek(&table, &rule, 1, START);
            assert_eq!(export(&table, START).len(), 1);
        }
    }
}

/// One of each kind, and a log with many cells.
fn all_rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        Algorithm::NAMES.map(|(_, algorithm)| rule("9 per minute", algorithm)).into();
    rules.push(rule("60 per minute", Algorithm::SlidingLog));
    let mut interval = parse_rates("9 per minute", Algorithm::TokenBucket).unwrap()[0];
    interval.refill = Refill::Interval;
    rules.push(interval.rule().unwrap());
    rules
}

proptest! {
    /// After a move to a table of another shape, every key is answered as before, now and later.
    #[test]
    fn a_move_changes_no_answer(
        steps in prop::collection::vec((0u64..30, 1u64..12, 0i64..4_000_000, any::<bool>()), 1..200),
        later in 0i64..70_000_000,
    ) {
        let (from, to) = (Memory::new(1_000), Memory::new(5_000));
        let (from, to, rules) = (from.table(), to.table(), all_rules());
        // Each key has the rule of its number.
        let rule_of = |n: u64| &rules[n as usize % rules.len()];
        let mut now = START;
        for (n, cost, wait, refund) in steps {
            now = now.plus(wait);
            let requests = [request(rule_of(n), n, cost)];
            match refund {
                true => from.refund(&requests, now).unwrap(),
                false => from.charge(&requests, now, None).unwrap(),
            }
        }
        prop_assert_eq!(install(&to, &export(&from, now), now), 0);
        prop_assert_eq!(to.keys(now.steady), from.keys(now.steady));
        for now in [now, now.plus(later)] {
            for n in 0..30 {
                for (cost, operation) in [(1, Operation::Peek), (2, Operation::Take)] {
                    let requests = [request(rule_of(n), n, cost)];
                    prop_assert_eq!(
                        to.decide(&requests, now, operation, None).unwrap(),
                        from.decide(&requests, now, operation, None).unwrap()
                    );
                }
            }
        }
    }
}
