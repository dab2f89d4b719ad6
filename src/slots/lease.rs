//! Leases: slots for work that outlives a transaction, or that goes through a pooler. A token frees one, or time does.
//!
//! Those of memory limiters are in shared memory, and hold whatever becomes of the transaction that took them.

use std::sync::atomic::{AtomicUsize, Ordering};

use pgrx::pg_sys;
use ratelimit_core::slots::{lease_token, Terms, Token};
use ratelimit_core::Micros;

use super::Slots;
use crate::backend::BackendCell;
use crate::config;
use crate::error::{Error, Result};
use crate::shmem::Header;

impl Slots<'_> {
    /// Takes a slot for so long, if that needs no waiting.
    pub fn try_lease(&self, ttl: Micros) -> Result<Option<Token>> {
        let random = random()?;
        if !config::enabled() {
            return Ok(Some(lease_token(random, u32::MAX)));
        }
        if !self.is_shared() {
            return Err(Error::not_preloaded());
        }
        let number = self.try_claim(Terms::Lease { random, ttl })?;
        Ok(number.map(|number| lease_token(random, number)))
    }

    /// The same when it is this session's turn; no later than `until`.
    pub fn lease(&self, ttl: Micros, until: Option<Micros>) -> Result<Option<Token>> {
        let random = random()?;
        if !config::enabled() {
            return Ok(Some(lease_token(random, u32::MAX)));
        }
        if !self.is_shared() {
            return Err(Error::not_preloaded());
        }
        let number = self.wait(Terms::Lease { random, ttl }, until)?;
        Ok(number.map(|number| lease_token(random, number)))
    }
}

/// Lets a lease end so long from now; says whether there was one.
pub fn renew(header: &'static Header, token: Token, ttl: Micros) -> bool {
    let now = header.clock.now().steady;
    header.with_slots(|slots| slots.renew(token, now, now.saturating_add(ttl)))
}

/// Ends a lease; says whether there was one.
pub fn release(header: &'static Header, token: Token) -> bool {
    let now = header.clock.now().steady;
    header.with_slots(|slots| slots.release_lease(token, now))
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
