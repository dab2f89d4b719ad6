//! Calls that wait for their turn, or book it.

use pgrx::pg_sys::Datum;
use ratelimit_core::Micros;

use crate::catalog::Definition;
use crate::datum::{self, decision_row};
use crate::error::{Error, Result};
use crate::function::{pg_function, Call};
use crate::interval::{self, Parts};
use crate::store::Store;

pg_function! {
    /// Takes `cost` when it is its turn.
    fn rl_acquire(call) {
        let (limiter, key, cost) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "cost")?);
        let timeout = call.timeout(3, "timeout")?;
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        let until = deadline(&store, &limiter, timeout);
        Ok(decision_row(&store.acquire(&limiter, key, cost, until)?))
    }
}

pg_function! {
    /// Books its turn, for a client that does the waiting.
    fn rl_reserve(call) {
        let (limiter, key, cost) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "cost")?);
        let max_wait = call.timeout(3, "max_wait")?;
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        let booking = store.reserve(&limiter, key, cost, max_wait.or(limiter.wait_timeout()))?;
        let [_, quota, remaining, retry_after, reset_after, reason] = datum::decision(&booking.decision);
        let reserved = Some(datum::boolean(booking.wait.is_some()));
        let wait = booking.wait.map(interval::datum);
        Ok(datum::row(call, &[reserved, wait, quota, remaining, retry_after, reset_after, reason]))
    }
}

/// When a call gives up: after its own timeout, or that of its limiter.
pub fn deadline(store: &Store, limiter: &Definition, timeout: Option<Micros>) -> Option<Micros> {
    let now = store.header().clock.now().steady;
    timeout.or(limiter.wait_timeout()).map(|timeout| now.saturating_add(timeout))
}

impl Call {
    /// How long to wait at most, unless it is null.
    pub fn timeout(&self, n: usize, name: &str) -> Result<Option<Micros>> {
        match self.optional(n).map(span) {
            Some(..0) => Err(Error::negative_span(name)),
            timeout => Ok(timeout),
        }
    }
}

/// The length of an interval argument.
pub fn span(datum: Datum) -> Micros {
    // SAFETY: SQL declares the argument as interval.
    unsafe { Parts::read(datum) }.wait()
}
