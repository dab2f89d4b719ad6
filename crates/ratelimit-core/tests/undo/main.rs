//! A take that is undone: what comes back, what must not, and what a list of receipts is good for.
//!
//! The measure is the replay: a fresh key on which only those takes are made that were not undone, at their times. A key on which
//! takes were undone never has more left than that.

#[path = "../common/mod.rs"]
mod common;

mod examples;
mod laws;
mod queue;
mod receipts;
mod transaction;
mod world;

use common::{any_spec, every_algorithm, gap, Key};
use proptest::prelude::*;
use ratelimit_core::{
    Algorithm, Anchor, Decision, Limit, Now, Period, RateSpec, Receipt, Receipts, Refill, HOUR,
    MINUTE, SECOND,
};

/// Takes if it fits, and says what to undo.
fn take(key: &mut Key, now: Now, cost: u64) -> Option<Receipt> {
    let mut limit = Limit::new(&key.rule, &mut key.state, cost);
    limit.try_take_with_receipt(now);
    limit.receipt()
}

/// Takes whether it fits or not.
fn charge(key: &mut Key, now: Now, cost: u64) -> Option<Receipt> {
    let mut limit = Limit::new(&key.rule, &mut key.state, cost);
    limit.charge(now);
    limit.receipt()
}

/// The answer is for [`Receipts::moved_up`].
fn undo(key: &mut Key, now: Now, receipt: &Receipt) -> u32 {
    Limit::new(&key.rule, &mut key.state, 0).undo(now, receipt)
}

/// Undoes all of them, as a table does.
fn undo_all(key: &mut Key, now: Now, receipts: &Receipts) -> u32 {
    receipts.undo(|receipt| undo(key, now, receipt))
}

fn total(receipts: &Receipts) -> u64 {
    receipts.iter().map(|receipt| receipt.cost).sum()
}

/// What a key answers now and for some time: two keys that agree on it are the same to all who ask.
fn outlook(spec: &RateSpec, key: &Key, now: Now) -> Vec<Decision> {
    let later = [0, 1, 17, 200, 499, 500, 999, 1_000, 1_001, 1_500, 1_999, 2_000];
    later
        .into_iter()
        .flat_map(|part| {
            let then = now.plus(gap(spec, part, 0));
            [key.peek(then, 0), key.peek(then.plus(1), 1)]
        })
        .collect()
}

fn is_fixed(spec: &RateSpec, anchor: Anchor) -> bool {
    spec.algorithm == Algorithm::FixedWindow && spec.anchor == anchor
}

fn is_bucket(spec: &RateSpec, refill: Refill) -> bool {
    spec.algorithm == Algorithm::TokenBucket && spec.refill == refill
}

/// Whether an undone take leaves no trace, whenever it is undone: where every charge is counted by itself.
fn leaves_no_trace(spec: &RateSpec) -> bool {
    is_fixed(spec, Anchor::Clock)
        || matches!(spec.algorithm, Algorithm::SlidingWindow | Algorithm::SlidingLog)
}

/// Whether the moment of a first take decides when what comes later counts no more: undoing that take does not move the moment.
fn has_phase(spec: &RateSpec) -> bool {
    is_fixed(spec, Anchor::FirstHit) || is_bucket(spec, Refill::Interval)
}

/// Definitions so small that a short history fills them.
fn small_spec() -> impl Strategy<Value = RateSpec> {
    let period = prop::sample::select(vec![10_000, 1_009, SECOND, MINUTE, 7 * HOUR]);
    (0..6usize, 1..12u64, 1..30u64, any::<bool>(), period).prop_map(
        |(kind, quota, burst, with_burst, period)| {
            let spec = every_algorithm("1/s")[kind];
            let burst = (with_burst && spec.algorithm == Algorithm::TokenBucket).then_some(burst);
            RateSpec { quota, burst, period: Period::Span(period), ..spec }
        },
    )
}

fn spec() -> impl Strategy<Value = RateSpec> {
    prop_oneof![3 => small_spec(), 1 => any_spec()]
}

/// Only those for which this holds.
fn spec_that(is: fn(&RateSpec) -> bool) -> impl Strategy<Value = RateSpec> {
    spec().prop_filter("another way to count", is)
}

fn is_continuous(spec: &RateSpec) -> bool {
    is_bucket(spec, Refill::Continuous)
}
