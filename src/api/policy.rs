//! Limits that come with the call, as from a join with a table of plans.

use pgrx::pg_sys::Datum;
use ratelimit_core::{Algorithm, Anchor, Operation, Period, RateSpec, Refill};

use crate::catalog::Definition;
use crate::datum::decision_row;
use crate::error::{Error, Result};
use crate::function::{pg_function, Call};
use crate::interval::Parts;
use crate::store::Store;

fn decide(call: &Call, algorithm: Algorithm, burst: Option<u64>, cost: u64) -> Result<Datum> {
    let key = call.text(0, "key")?;
    let quota = call.cost(1, "quota")?;
    // SAFETY: SQL declares the argument as interval.
    let period = unsafe { Parts::read(call.required(2, "period")?) }.span("period")?;
    let spec = RateSpec {
        algorithm,
        quota,
        period: Period::Span(period),
        burst,
        refill: Refill::Continuous,
        anchor: Anchor::Clock,
    };
    let rule = spec.rule().map_err(Error::policy)?;
    let store = Store::new(call)?;
    store.check_shared()?;
    let limiter = Definition::ad_hoc(call.function(), spec, rule, &store.header().secret);
    Ok(decision_row(&store.decide(&limiter, key, cost, Operation::Take)?))
}

pg_function! {
    /// A sliding window of `quota` per `period`.
    fn rl_sliding_check(call) {
        let cost = call.cost(3, "cost")?;
        decide(call, Algorithm::SlidingWindow, None, cost)
    }
}

pg_function! {
    /// A token bucket of `quota` per `period`, which holds `burst`.
    fn rl_throttle(call) {
        let burst = call.optional(3).map(|_| call.cost(3, "burst")).transpose()?;
        let cost = call.cost(4, "cost")?;
        decide(call, Algorithm::TokenBucket, burst, cost)
    }
}
