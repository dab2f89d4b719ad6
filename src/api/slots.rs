//! Concurrency slots, as `sql/slots.sql` declares them.

use pgrx::pg_sys::Datum;
use ratelimit_core::slots::{Kind, Token};
use ratelimit_core::Micros;

use super::wait::{deadline, span};
use crate::catalog::{Definition, Mode};
use crate::datum::{self, Rows};
use crate::error::{Error, Result};
use crate::function::{pg_function, Call};
use crate::shmem;
use crate::slots::{self, Term};
use crate::store::Store;

pg_function! {
    /// Takes a slot for the transaction, if that needs no waiting.
    fn rl_try_slot(call) {
        try_slot(call, Term::Transaction)
    }
}

pg_function! {
    /// Takes a slot for the transaction when it is its turn.
    fn rl_slot(call) {
        slot(call, Term::Transaction)
    }
}

pg_function! {
    /// Takes a slot for the session, if that needs no waiting.
    fn rl_try_session_slot(call) {
        try_slot(call, Term::Session)
    }
}

pg_function! {
    /// Takes a slot for the session when it is its turn.
    fn rl_session_slot(call) {
        slot(call, Term::Session)
    }
}

pg_function! {
    /// Gives back the slot that the session took last.
    fn rl_release_session_slot(call) {
        let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        Ok(Datum::from(store.slots(&limiter, key)?.give_back(Term::Session)))
    }
}

pg_function! {
    /// Takes a slot for so long, if that needs no waiting; null if not.
    fn rl_try_lease(call) {
        let (limiter, key, ttl) = (call.text(0, "limiter")?, call.text(1, "key")?, call.ttl(2)?);
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        let slots = store.slots(&limiter, key)?;
        lease(call, &store, &limiter, key, || slots.try_lease(ttl))
    }
}

pg_function! {
    /// Takes a slot for so long when it is its turn; null if that is not before the timeout.
    fn rl_lease(call) {
        let (limiter, key, ttl) = (call.text(0, "limiter")?, call.text(1, "key")?, call.ttl(2)?);
        let timeout = call.timeout(3, "timeout")?;
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        let slots = store.slots(&limiter, key)?;
        let until = deadline(&store, &limiter, timeout);
        lease(call, &store, &limiter, key, || {
            if limiter.mode() == Mode::Shadow {
                return slots.try_lease(ttl);
            }
            let token = slots.lease(ttl, until)?;
            // What is said of the key may have changed while it waited.
            let Some(answer) = store.settled(&limiter, key)? else { return Ok(token) };
            if let Some(token) = token {
                slots::release(store.header(), call.function(), token)?;
            }
            answer.then(slots::no_lease).transpose()
        })
    }
}

pg_function! {
    /// Lets a lease end so long from now; says whether it was still held.
    fn rl_renew_lease(call) {
        let (token, ttl) = (call.uuid(0, "token")?, call.ttl(1)?);
        let store = Store::new(call)?;
        Ok(Datum::from(slots::renew(store.header(), call.function(), token, ttl)?))
    }
}

pg_function! {
    /// Ends a lease; says whether it was still held.
    fn rl_release_lease(call) {
        let token = call.uuid(0, "token")?;
        let store = Store::new(call)?;
        Ok(Datum::from(slots::release(store.header(), call.function(), token)?))
    }
}

pg_function! {
    /// Who holds a slot in this database.
    fn _rl_slots(call) {
        let mut rows = Rows::new(call);
        let header = shmem::get()?.unwrap_or_else(shmem::private);
        let clock = header.clock.now();
        let time = |steady| datum::time(steady, clock);
        for held in slots::all(header, call.function())? {
            let kind = match held.kind {
                Kind::Transaction => "transaction",
                Kind::Session => "session",
                Kind::Lease => "lease",
            };
            rows.push(&[
                Some(datum::uuid(held.limiter)),
                Some(datum::text(held.key.as_bytes())),
                Some(datum::text(kind.as_bytes())),
                (held.kind != Kind::Lease).then(|| Datum::from(held.pid)),
                held.token.map(datum::uuid),
                Some(time(held.since)),
                held.expires.map(time),
            ]);
        }
        Ok(Datum::null())
    }
}

/// The token of a lease, or null. Where slots have nothing to say, and in shadow where there are none, it frees nothing.
fn lease(
    call: &Call,
    store: &Store,
    limiter: &Definition,
    key: &[u8],
    take: impl FnOnce() -> Result<Option<Token>>,
) -> Result<Datum> {
    let token = match store.settled(limiter, key)? {
        Some(true) => Some(slots::no_lease()?),
        Some(false) => None,
        None => take()?,
    };
    store.count_answer(limiter, key, token.is_some());
    let token = match token {
        None if limiter.mode() == Mode::Shadow => Some(slots::no_lease()?),
        token => token,
    };
    Ok(token.map_or_else(|| call.null(), datum::uuid))
}

fn try_slot(call: &Call, term: Term) -> Result<Datum> {
    let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
    let store = Store::new(call)?;
    let limiter = store.limiter(limiter)?;
    let slots = store.slots(&limiter, key)?;
    let taken = match store.settled(&limiter, key)? {
        Some(answer) => answer,
        None => slots.try_take(term)?,
    };
    store.count_answer(&limiter, key, taken);
    Ok(Datum::from(taken || limiter.mode() == Mode::Shadow))
}

fn slot(call: &Call, term: Term) -> Result<Datum> {
    let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
    let timeout = call.timeout(2, "timeout")?;
    let store = Store::new(call)?;
    let limiter = store.limiter(limiter)?;
    let slots = store.slots(&limiter, key)?;
    let until = deadline(&store, &limiter, timeout);
    let taken = match store.settled(&limiter, key)? {
        Some(answer) => answer,
        None if limiter.mode() == Mode::Shadow => slots.try_take(term)?,
        None => {
            let taken = slots.take(term, until)?;
            // What is said of the key may have changed while it waited.
            match store.settled(&limiter, key) {
                Ok(None) => taken,
                changed => {
                    if taken {
                        slots.give_back(term);
                    }
                    changed?.unwrap_or(taken)
                }
            }
        }
    };
    store.count_answer(&limiter, key, taken);
    Ok(Datum::from(taken || limiter.mode() == Mode::Shadow))
}

impl Call {
    /// How long a lease lasts.
    fn ttl(&self, n: usize) -> Result<Micros> {
        match span(self.required(n, "ttl")?) {
            ttl @ 1.. => Ok(ttl),
            _ => Err(Error::ttl()),
        }
    }

    pub fn uuid(&self, n: usize, name: &str) -> Result<Token> {
        // SAFETY: SQL declares the argument as uuid, which is 16 bytes, passed by reference.
        Ok(unsafe { *self.required(n, name)?.cast_mut_ptr::<Token>() })
    }
}
