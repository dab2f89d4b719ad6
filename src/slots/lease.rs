//! Leases: slots for work that outlives a transaction, or that goes through a pooler. A token frees one, or time does.
//!
//! Those of memory limiters are in shared memory, and hold whatever becomes of the transaction that took them. Those of durable
//! limiters are in a table as well, and follow the transaction: see `changes.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};

use pgrx::pg_sys::{self, Oid};
use ratelimit_core::slots::{lease_token, Lease, Terms, Token};
use ratelimit_core::Micros;

use super::{bare, changes, Slots};
use crate::backend::{self, BackendCell};
use crate::catalog::{self, Stake};
use crate::durable;
use crate::error::{Error, Result};
use crate::shmem::{self, Header};

impl Slots<'_> {
    /// Takes a slot for so long, if that needs no waiting.
    pub fn try_lease(&self, ttl: Micros) -> Result<Option<Token>> {
        self.take_lease(ttl, |terms| self.try_claim(terms))
    }

    /// The same when it is this session's turn; no later than `until`.
    pub fn lease(&self, ttl: Micros, until: Option<Micros>) -> Result<Option<Token>> {
        self.take_lease(ttl, |terms| self.wait(terms, until))
    }

    fn take_lease(
        &self,
        ttl: Micros,
        take: impl FnOnce(Terms) -> Result<Option<u32>>,
    ) -> Result<Option<Token>> {
        let random = random()?;
        let durable = self.limiter.stake() == Stake::Durable;
        let schema = durable.then(|| catalog::schema_of(self.function));
        if durable {
            changes::reserve();
        }
        let Some(number) = take(Terms::Lease { random, ttl, durable })? else { return Ok(None) };
        let token = lease_token(random, number);
        if !self.is_shared() {
            self.write_lease(token, number, ttl)?;
            return Ok(Some(token));
        }
        if let Some(schema) = schema {
            let digest = self.limiter.slot_digest(self.text);
            if !changes::take(self.header, schema, token, digest) {
                return Err(self.ceiling());
            }
        }
        Ok(Some(token))
    }
}

/// A token that frees nothing, for who needs no slot.
pub fn no_lease() -> Result<Token> {
    Ok(lease_token(random()?, u32::MAX))
}

/// Lets a lease end so long from now; says whether there was one.
pub fn renew(header: &'static Header, function: Oid, token: Token, ttl: Micros) -> Result<bool> {
    if !shmem::is_shared(header) {
        return bare::renew(header, function, token, ttl);
    }
    match find(header, function, token)? {
        None => Ok(false),
        Some(lease) if lease.durable => changes::renew(header, function, token, ttl),
        Some(_) => {
            let now = header.clock.now().steady;
            let expires = now.saturating_add(ttl);
            Ok(header.with_slots(|slots| slots.renew(token, backend::database(), now, expires)))
        }
    }
}

/// Ends a lease; says whether there was one.
pub fn release(header: &'static Header, function: Oid, token: Token) -> Result<bool> {
    if !shmem::is_shared(header) {
        return bare::release(header, function, token);
    }
    match find(header, function, token)? {
        None => Ok(false),
        Some(lease) if lease.durable => changes::release(header, function, token),
        Some(_) => {
            let now = header.clock.now().steady;
            Ok(header.with_slots(|slots| slots.release_lease(token, backend::database(), now)))
        }
    }
}

/// The lease with this token, of this database.
fn find(header: &'static Header, function: Oid, token: Token) -> Result<Option<Lease>> {
    let look = || {
        let now = header.clock.now().steady;
        header.with_slots(|slots| slots.lease(token, backend::database(), now))
    };
    let found = look();
    if found.is_some() {
        return Ok(found);
    }
    durable::check_standby_lease(header, function, &token)?;
    durable::load_known_leases(header, function)?;
    Ok(look())
}

/// So many tokens are drawn at once: asking the kernel takes longer than all else.
const DRAWN: usize = 64;

static TOKENS: BackendCell<[Token; DRAWN]> = BackendCell::new([[0; 16]; DRAWN]);
static USED: AtomicUsize = AtomicUsize::new(DRAWN);

/// Bytes that nobody can guess, used once.
fn random() -> Result<Token> {
    let mut place = USED.load(Ordering::Relaxed);
    if place >= DRAWN {
        place = 0;
        // SAFETY: as many bytes of ours; it is called once in 64 times, and does not call back.
        let drawn = TOKENS.with(|tokens| unsafe {
            pg_sys::pg_strong_random(tokens.as_mut_ptr().cast(), size_of_val(tokens))
        });
        if !drawn {
            return Err(Error::internal("There are no random numbers to be had."));
        }
    }
    USED.store(place + 1, Ordering::Relaxed);
    Ok(TOKENS.with(|tokens| std::mem::take(&mut tokens[place])))
}
