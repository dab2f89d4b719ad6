//! Calls for one limiter and one key.

use pgrx::pg_sys::Datum;
use ratelimit_core::Operation;

use crate::datum::{self, decision_row};
use crate::error::Error;
use crate::function::pg_function;
use crate::store::Store;

pg_function! {
    /// Takes `cost` or nothing. The hot path: no catalog, no allocation, no lock but the key's.
    fn rl_try_acquire(call) {
        let (limiter, key, cost) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "cost")?);
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        Ok(Datum::from(store.try_take(&limiter, key, cost)?))
    }
}

pg_function! {
    /// The same, with the whole answer.
    fn rl_check(call) {
        let (limiter, key, cost) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "cost")?);
        let store = Store::new(call)?;
        let decision = store.decide(&*store.limiter(limiter)?, key, cost, Operation::Take)?;
        Ok(decision_row(&decision))
    }
}

pg_function! {
    /// The answer that `rl_check` would give; changes nothing.
    fn rl_peek(call) {
        let (limiter, key, cost) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "cost")?);
        let store = Store::new(call)?;
        let decision = store.decide(&*store.limiter(limiter)?, key, cost, Operation::Peek)?;
        Ok(decision_row(&decision))
    }
}

pg_function! {
    /// Raises PT429 when denied.
    fn rl_enforce(call) {
        let (limiter, key, cost) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "cost")?);
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        let decision = store.raising().decide(&limiter, key, cost, Operation::Take)?;
        if decision.allowed {
            Ok(Datum::null())
        } else {
            Err(Error::denied(&limiter.name, Some(&decision)))
        }
    }
}

pg_function! {
    /// Takes as many as are left, up to `at_most`.
    fn rl_take(call) {
        let (limiter, key, at_most) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "at_most")?);
        let store = Store::new(call)?;
        let granted = store.take_at_most(&*store.limiter(limiter)?, key, at_most)?;
        Ok(datum::count(granted).unwrap_or(Datum::null()))
    }
}

pg_function! {
    /// Gives back, never above the capacity.
    fn rl_refund(call) {
        let (limiter, key, cost) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "cost")?);
        let store = Store::new(call)?;
        store.refund(&*store.limiter(limiter)?, key, cost)?;
        Ok(Datum::null())
    }
}

pg_function! {
    /// Charges after the fact; may overdraw.
    fn rl_penalize(call) {
        let (limiter, key, cost) = (call.text(0, "limiter")?, call.text(1, "key")?, call.cost(2, "cost")?);
        let store = Store::new(call)?;
        store.charge(&*store.limiter(limiter)?, key, cost)?;
        Ok(Datum::null())
    }
}
