extern crate std;

mod ban;
mod record;

use core::sync::atomic::AtomicI64;
use std::collections::HashMap;
use std::sync::Mutex;
use std::vec::Vec;

use super::*;
use crate::{
    decide, parse_rates, take_at_most, Algorithm, Decision, KeyHasher, Limit, MemoryState, Now,
    Operation, Refill, Rule,
};
use proptest::prelude::*;

#[derive(Debug, Default)]
pub(super) struct Threads {
    partitions: [Mutex<bool>; 8],
    /// What the clock shows to who looks again.
    pub(super) now: AtomicI64,
    pub(super) last_reset: AtomicI64,
}

impl Host for &Threads {
    fn lock(&self, partition: usize) {
        while core::mem::replace(&mut *self.partitions[partition].lock().unwrap(), true) {
            std::thread::yield_now();
        }
    }
    fn unlock(&self, partition: usize) {
        *self.partitions[partition].lock().unwrap() = false;
    }
    fn yield_now(&self, _: u32) {
        std::thread::yield_now();
    }
    fn now(&self) -> Now {
        Now::at(self.now.load(Ordering::Relaxed).max(START.steady))
    }
    fn last_reset(&self) -> Micros {
        self.last_reset.load(Ordering::Relaxed)
    }
    fn interrupts(&self) {}
}

pub(super) struct Memory {
    pub(super) cells: Vec<Cell>,
    shape: Shape,
    pub(super) evictions: AtomicU64,
    pub(super) threads: Threads,
}

impl Memory {
    pub(super) fn new(keys: usize) -> Self {
        let shape = Shape::new(keys, 8);
        let cells = (0..shape.cells()).map(|_| Cell::default()).collect();
        Memory { cells, shape, evictions: AtomicU64::new(0), threads: Threads::default() }
    }
    pub(super) fn table(&self) -> Table<'_, &Threads> {
        Table::new(&self.cells, self.shape, &self.evictions, &self.threads)
    }
}

pub(super) fn key(n: u64) -> Key {
    KeyHasher::new(&[1; 16], &[b"test"]).key(&n.to_le_bytes())
}

pub(super) fn rule(rate: &str, algorithm: Algorithm) -> Rule {
    parse_rates(rate, algorithm).unwrap()[0].rule().unwrap()
}

pub(super) fn request(rule: &Rule, n: u64, cost: u64) -> Request<'_> {
    Request { rule, key: key(n), tag: 7, primary: true, cost, durable: false, pin: false, mark: 0 }
}

pub(super) fn take(table: &Table<'_, &Threads>, rule: &Rule, n: u64, now: Now) -> bool {
    table.try_take(&request(rule, n, 1), now).unwrap().allowed
}

mod sweep;

pub(super) const START: Now = Now::at(1_700_000_000_000_000);

#[test]
fn nothing_live_is_evicted_below_nine_tenths() {
    let memory = Memory::new(20_000);
    let (table, rule) = (memory.table(), rule("2 per hour", Algorithm::TokenBucket));
    for n in 0..18_000 {
        assert!(take(&table, &rule, n, START));
    }
    assert_eq!(memory.evictions.load(Ordering::Relaxed), 0);
    assert_eq!(table.keys(START.steady), 18_000);
    for n in 0..18_000 {
        assert!(take(&table, &rule, n, START), "the second of {n} is there");
        assert!(!take(&table, &rule, n, START), "the third is not");
    }
}

#[test]
fn a_flood_does_not_wash_out_a_denied_key() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("1 per hour", Algorithm::FixedWindow));
    let roomy = self::rule("5 per hour", Algorithm::SlidingWindow);
    assert!(take(&table, &rule, 0, START));
    for n in 1..10_000 {
        assert!(take(&table, &roomy, n, START));
        assert!(!take(&table, &rule, 0, START));
    }
    assert!(memory.evictions.load(Ordering::Relaxed) > 7_000);
}

#[test]
fn when_full_of_denied_keys_a_new_one_waits() {
    let memory = Memory::new(1);
    let (mut table, rule) = (memory.table(), rule("2 per minute", Algorithm::SlidingWindow));
    assert!((0..4).all(|n| take(&table, &rule, n / 2, START)));
    let Err(Unable::Full(full)) = table.try_take(&request(&rule, 2, 1), START) else {
        panic!("there was room");
    };
    assert!(full.until > START.steady);
    let later = Now::at(full.until);
    table.set_on_full(OnFull::Deny);
    assert!(table.try_take(&request(&rule, 2, 1), later).is_err());
    table.set_on_full(OnFull::Evict);
    assert!(take(&table, &rule, 2, later));
}

#[test]
fn reset_forgets_one_and_reset_all_the_limiter() {
    let memory = Memory::new(100);
    let (table, rule) = (memory.table(), rule("1 per hour", Algorithm::TokenBucket));
    assert!((0..10).all(|n| take(&table, &rule, n, START)));
    assert!(table.reset(key(3), 0..1, START.steady));
    assert!(!table.reset(key(3), 0..1, START.steady));
    assert_eq!(table.reset_all(7, START.steady), 9);
    assert_eq!(table.reset_all(7, START.steady), 0);
    assert!((0..10).all(|n| take(&table, &rule, n, START)));
}

#[test]
fn threads_together_admit_exactly_the_quota() {
    for algorithm in Algorithm::NAMES.map(|(_, algorithm)| algorithm) {
        let memory = Memory::new(100);
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let (table, rule) = (memory.table(), rule("100 per hour", algorithm));
                    for _ in 0..200 {
                        let taken = take(&table, &rule, 5, START);
                        admitted.fetch_add(u64::from(taken), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 100, "{algorithm:?}");
    }
}

#[test]
fn transactions_over_the_same_keys_in_any_order_finish_and_are_all_or_nothing() {
    let memory = Memory::new(100);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let memory = &memory;
            scope.spawn(move || {
                let (table, rule) = (memory.table(), rule("1000 per hour", Algorithm::FixedWindow));
                for n in 0..500 {
                    let (a, b) = ((thread + n) % 3, (thread * 7 + n + 1) % 3);
                    let requests = [request(&rule, a, 1), request(&rule, b, 1)];
                    if a != b {
                        table.decide(&requests, START, Operation::Take, None).unwrap();
                    }
                }
            });
        }
    });
    let (table, rule) = (memory.table(), rule("1000 per hour", Algorithm::FixedWindow));
    let used: u64 = (0..3)
        .map(|n| {
            let left = table.decide(&[request(&rule, n, 0)], START, Operation::Peek, None).unwrap();
            1_000 - left.remaining
        })
        .sum();
    assert_eq!(used % 2, 0);
}

#[test]
fn a_log_gives_back_what_it_used() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("1000 per day", Algorithm::SlidingLog));
    for _ in 0..100 {
        let all = [request(&rule, 1, 1_000)];
        assert!(table.decide(&all, START, Operation::Take, None).unwrap().allowed);
        assert!(!take(&table, &rule, 1, START));
        assert!(table.reset(key(1), 0..1, START.steady));
    }
}

#[test]
fn logs_that_refuse_nothing_make_room() {
    let memory = Memory::new(1_000);
    let (table, rule) = (memory.table(), rule("20 per day", Algorithm::SlidingLog));
    for n in 0..10_000 {
        let ten = [request(&rule, n, 10)];
        assert!(table.decide(&ten, START, Operation::Take, None).unwrap().allowed, "{n}");
    }
}

#[test]
fn racing_first_calls_share_one_log() {
    for n in 0..50 {
        let memory = Memory::new(1_000);
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let (memory, admitted) = (&memory, &admitted);
                scope.spawn(move || {
                    let (table, rule) =
                        (memory.table(), rule("300 per day", Algorithm::SlidingLog));
                    for _ in 0..30 {
                        let taken = take(&table, &rule, n, START.plus(thread));
                        admitted.fetch_add(u64::from(taken), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 300);
    }
}

#[test]
fn who_read_the_clock_before_a_window_ended_does_not_bring_it_back() {
    const EDGE: i64 = START.steady - START.steady % 60_000_000 + 60_000_000;
    for algorithm in Algorithm::NAMES.map(|(_, algorithm)| algorithm) {
        let memory = Memory::new(100);
        memory.threads.now.store(EDGE + 15, Ordering::Relaxed);
        let (table, rule) = (memory.table(), rule("100 per minute", algorithm));
        let take = |time| (0..100).filter(|_| take(&table, &rule, 1, Now::at(time))).count();
        let admitted = take(EDGE + 10) + take(EDGE - 1) + take(EDGE + 20);
        assert_eq!(admitted, 100, "{algorithm:?}");
    }
}

#[test]
fn a_log_that_does_not_fit_is_refused_at_last() {
    let memory = Memory::new(100);
    let (table, rule) = (memory.table(), rule("1000 per hour", Algorithm::SlidingLog));
    assert!(table.charge(&[request(&rule, 1, 1_000)], START, None).is_err());
    // What it had claimed is free again soon.
    let later = START.plus(2 * SECOND);
    let small = self::rule("1 per hour", Algorithm::TokenBucket);
    assert!((2..100).all(|n| take(&table, &small, n, later)));
}

#[test]
fn large_logs_push_each_other_out_and_finish() {
    let memory = Memory::new(2_000);
    let (table, rule) = (memory.table(), rule("1000 per hour", Algorithm::SlidingLog));
    for n in 0..40 {
        let most = [request(&rule, n, 999)];
        assert!(
            table.decide(&most, START.plus(n as i64), Operation::Take, None).unwrap().allowed,
            "{n}"
        );
    }
}

fn any_rule() -> impl Strategy<Value = (&'static str, Algorithm)> {
    prop_oneof![
        Just(("7 per minute", Algorithm::TokenBucket)),
        Just(("7 per minute", Algorithm::FixedWindow)),
        Just(("7 per minute", Algorithm::SlidingWindow)),
        Just(("7 per minute", Algorithm::SlidingLog)),
        Just(("100 per minute", Algorithm::SlidingLog)),
    ]
}

proptest! {
    /// The table is a map from keys to states: whatever is done, it answers as one.
    #[test]
    fn the_table_answers_like_a_map(
        (rate, algorithm) in any_rule(),
        steps in prop::collection::vec((0u64..20, 0u64..9, 0i64..20_000_000, 0u8..10), 1..200),
    ) {
        let memory = Memory::new(1_000);
        let (table, rule) = (memory.table(), rule(rate, algorithm));
        let mut model: HashMap<u64, MemoryState> = HashMap::new();
        let mut now = START;
        for (n, cost, wait, action) in steps {
            now = now.plus(wait);
            if action == 5 {
                table.sweep(now.steady);
            }
            let requests = [request(&rule, n, cost)];
            let state = model.entry(n).or_default();
            let mut expected = [Limit::new(&rule, state, cost)];
            match action {
                0 => {
                    table.refund(&requests, now).unwrap();
                    expected[0].refund(now);
                }
                1 => {
                    table.charge(&requests, now, None).unwrap();
                    expected[0].charge(now);
                }
                2 => prop_assert_eq!(
                    table.decide(&requests, now, Operation::Peek, None).unwrap(),
                    decide(&mut expected, now, Operation::Peek)
                ),
                3 => prop_assert_eq!(
                    table.try_take(&requests[0], now).unwrap(),
                    expected[0].try_take(now)
                ),
                4 => prop_assert_eq!(
                    table.take_at_most(&requests, now, None).unwrap(),
                    take_at_most(&mut expected, now)
                ),
                _ => prop_assert_eq!(
                    table.decide(&requests, now, Operation::Take, None).unwrap(),
                    decide(&mut expected, now, Operation::Take)
                ),
            }
        }
    }
}
