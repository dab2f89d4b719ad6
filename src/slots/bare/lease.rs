//! Leases where no memory is shared: a row each, with the number of its slot. It is written when the lease is taken, so a rollback takes
//! it back.
//!
//! Who takes, renews or releases a lease locks its number until the transaction ends: so nobody takes the slot before it is known what
//! becomes of the lease. Two who do something to one lease take turns by a lock on its token.

use pgrx::pg_sys::{self, Oid};
use ratelimit_core::slots::{Lease, Text, Token, MAX_TEXT};
use ratelimit_core::table::Key;
use ratelimit_core::{Micros, MILLISECOND};

use super::super::hold::{self, Term};
use super::super::{lock, Slots};
use super::{is_full, ATTEMPTS};
use crate::backend;
use crate::catalog::{self, Id};
use crate::durable::{self, Which, Written};
use crate::encoding;
use crate::error::{Error, Result};
use crate::shmem::Header;
use crate::sleep::{sleep, Event};

impl Slots<'_> {
    /// The numbers of the key's leases.
    pub(super) fn leased(&self) -> Result<Vec<Option<u32>>> {
        let digest = self.limiter.slot_digest(self.text);
        let schema = catalog::schema_of(self.function);
        let leases = durable::leases(self.header, schema, Which::Digest(&digest))?;
        Ok(leases.iter().map(|lease| lease.number).collect())
    }

    /// Makes the slot that was just locked a lease.
    pub(in super::super) fn write_lease(
        &self,
        token: Token,
        number: u32,
        ttl: Micros,
    ) -> Result<()> {
        hold::reserve();
        hold::remember(self.header, self.key, number, Term::Transaction);
        if !durable::try_lock_token(&token) {
            return Err(self.ceiling());
        }
        let now = self.now();
        let lease = Lease {
            token,
            key: self.key,
            durable: true,
            database: backend::database(),
            limiter: self.limiter.id(),
            since: now,
            expires: now.saturating_add(ttl),
            text: Text::new(encoding::clip(self.text, MAX_TEXT)),
        };
        let digest = self.limiter.slot_digest(self.text);
        let written = Written::Taken(Box::new(lease), digest, Some(number));
        durable::write_lease(self.header, catalog::schema_of(self.function), written)
    }
}

/// Lets a lease end so long from now; says whether there was one. `function` is one of the extension's.
pub fn renew(header: &'static Header, function: Oid, token: Token, ttl: Micros) -> Result<bool> {
    change(header, function, token, |now| Written::Renewed(token, now.saturating_add(ttl)))
}

/// Ends a lease; says whether there was one.
pub fn release(header: &'static Header, function: Oid, token: Token) -> Result<bool> {
    change(header, function, token, |_| Written::Released(token))
}

fn change(
    header: &'static Header,
    function: Oid,
    token: Token,
    change: impl FnOnce(Micros) -> Written,
) -> Result<bool> {
    let schema = catalog::schema_of(function);
    let find = || Ok(durable::leases(header, schema, Which::Token(&token))?.pop());
    // SAFETY: a plain variable, true on standbys, too.
    if unsafe { pg_sys::XactReadOnly } {
        return find()?.map_or(Ok(false), |_| Err(Error::read_only_lease()));
    }
    if is_full(header, &lock::all()) {
        return Err(Error::too_many_slots(header.max_slots()));
    }
    durable::lock_token(&token);
    for _ in 0..ATTEMPTS {
        let Some(lease) = find()? else {
            durable::unlock_token(&token);
            return Ok(false);
        };
        let key = key_of(&lease.digest);
        if lease.number.is_none_or(|number| lock::is_held(&lock::tag(key, number))) {
            durable::write_lease(header, schema, change(header.clock.now().steady))?;
            return Ok(true);
        }
        // It may be over by the time that the number is locked, and somebody else's. Where it cannot be locked, a newcomer had not
        // seen the lease yet.
        if !lease.number.is_some_and(|number| lock_number(header, key, number)) {
            sleep(&header.clock, Some(header.clock.now().steady + MILLISECOND), Event::Slot);
        }
    }
    Err(Error::too_many_slots(header.max_slots()))
}

/// Locks the number of a lease until the transaction ends.
fn lock_number(header: &'static Header, key: Key, number: u32) -> bool {
    hold::reserve();
    let locked = lock::acquire(&lock::tag(key, number), false);
    if locked {
        hold::remember(header, key, number, Term::Transaction);
    }
    locked
}

/// What the table says as a uuid.
fn key_of(digest: &Id) -> Key {
    let whole = u128::from_be_bytes(*digest);
    [(whole >> 64) as u64, whole as u64]
}
