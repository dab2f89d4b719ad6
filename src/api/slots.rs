//! Concurrency slots, as `sql/slots.sql` declares them.

use pgrx::pg_sys::{self, Datum};
use ratelimit_core::slots::{Kind, Token};
use ratelimit_core::Micros;

use super::wait::{deadline, span};
use crate::datum::{self, Rows, EPOCHS};
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
        let lease = slots.try_lease(ttl)?;
        slots.count(lease.is_some());
        token(call, lease)
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
        let lease = slots.lease(ttl, deadline(&store, &limiter, timeout))?;
        slots.count_wait(lease.is_some());
        token(call, lease)
    }
}

pg_function! {
    /// Lets a lease end so long from now; says whether it was still held.
    fn rl_renew_lease(call) {
        let (token, ttl) = (call.uuid(0, "token")?, call.ttl(1)?);
        let store = Store::new(call)?;
        store.check_shared()?;
        Ok(Datum::from(slots::renew(store.header(), token, ttl)))
    }
}

pg_function! {
    /// Ends a lease; says whether it was still held.
    fn rl_release_lease(call) {
        let token = call.uuid(0, "token")?;
        let store = Store::new(call)?;
        store.check_shared()?;
        Ok(Datum::from(slots::release(store.header(), token)))
    }
}

pg_function! {
    /// Who holds a slot in this database.
    fn _rl_slots(call) {
        let mut rows = Rows::new(call);
        let Some(header) = shmem::get()? else {
            return Ok(Datum::null());
        };
        // SAFETY: a plain variable, set when the process connected to its database.
        let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
        let clock = header.clock.now();
        let time = |steady: i64| match steady {
            Micros::MAX => Datum::from(INFINITY),
            _ => Datum::from(clock.wall + (steady - clock.steady) - EPOCHS),
        };
        for held in slots::all(header, database) {
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

/// `infinity` as a timestamp: for a lease that lasts longer than there is time.
const INFINITY: i64 = i64::MAX;

/// A token, or null.
fn token(call: &Call, token: Option<Token>) -> Result<Datum> {
    Ok(token.map_or_else(|| call.null(), datum::uuid))
}

fn try_slot(call: &Call, term: Term) -> Result<Datum> {
    let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
    let store = Store::new(call)?;
    let limiter = store.limiter(limiter)?;
    let slots = store.slots(&limiter, key)?;
    let taken = !store.is_enabled() || slots.try_take(term)?;
    Ok(Datum::from(slots.count(taken)))
}

fn slot(call: &Call, term: Term) -> Result<Datum> {
    let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
    let timeout = call.timeout(2, "timeout")?;
    let store = Store::new(call)?;
    let limiter = store.limiter(limiter)?;
    let slots = store.slots(&limiter, key)?;
    let until = deadline(&store, &limiter, timeout);
    let taken = !store.is_enabled() || slots.take(term, until)?;
    Ok(Datum::from(slots.count_wait(taken)))
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
