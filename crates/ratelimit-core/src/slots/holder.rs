//! One taken slot, and what is told about it.

use super::lease::Lease;
use super::list::{linked, Link, Linked, Links};
use super::text::Text;
use crate::table::Key;
use crate::time::Micros;

/// What a lease is known by: a UUID, version 4.
pub type Token = [u8; 16];

/// How long a slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Until the transaction ends.
    Transaction,
    /// Until it is released, or the session ends.
    Session,
    /// Until it is released, or expires.
    Lease,
}

/// How long a slot is wanted, with what only a lease needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// See [`Kind::Transaction`].
    Transaction,
    /// See [`Kind::Session`].
    Session,
    /// See [`Kind::Lease`].
    Lease {
        /// Drawn at random; the token is made of it, see [`lease_token`](super::lease_token).
        random: Token,
        /// How long it lasts.
        ttl: Micros,
        /// The host remembers it by itself, and it is the host's to put it back after a restart.
        durable: bool,
    },
}

/// Who wants a slot, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'c> {
    /// How long.
    pub terms: Terms,
    /// The number of the process that asks: its place among the [`Waiter`](super::Waiter)s.
    pub process: u32,
    /// The operating system's name for it.
    pub pid: i32,
    /// The database of the limiter.
    pub database: u32,
    /// The limiter's id.
    pub limiter: [u8; 16],
    /// The key.
    pub text: &'c [u8],
}

/// What is known about a taken slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding<'h> {
    /// The number of the slot.
    pub index: u32,
    /// What it is a slot of.
    pub key: Key,
    /// How long it is held.
    pub kind: Kind,
    /// It was handed to a waiter that has not heard of it yet, see [`Slots::outcome`](super::Slots::outcome).
    pub pending: bool,
    /// Who took it. A lease may have outlived that process.
    pub process: u32,
    /// The operating system's name for it.
    pub pid: i32,
    /// The database of the limiter.
    pub database: u32,
    /// The limiter's id.
    pub limiter: [u8; 16],
    /// The key.
    pub text: &'h Text,
    /// When it was taken; while it is pending, since when the waiter has waited.
    pub since: Micros,
    /// What frees a lease.
    pub token: Option<Token>,
    /// A lease that the host remembers by itself.
    pub durable: bool,
    /// When a lease ends. Not known while it is pending: its time begins when its owner hears of it.
    pub expires: Option<Micros>,
}

impl Holding<'_> {
    /// A lease whose time has begun.
    pub fn lease(&self) -> Option<Lease> {
        let Holding { key, durable, database, limiter, since, .. } = *self;
        let (token, expires) = self.token.zip(self.expires)?;
        Some(Lease { token, key, durable, database, limiter, since, expires, text: *self.text })
    }
}

const FREE: u8 = 0;
const TRANSACTION: u8 = 1;
const SESSION: u8 = 2;
const LEASE: u8 = 3;
const DURABLE_LEASE: u8 = 4;

/// What a [`Holder`] and a [`Waiter`](super::Waiter) have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Details {
    pub(super) token: Token,
    limiter: [u8; 16],
    pub(super) since: Micros,
    /// Of a lease that is not pending.
    pub(super) expires: Micros,
    pub(super) pid: i32,
    pub(super) process: u32,
    pub(super) database: u32,
    kind: u8,
    pending: u8,
    text: Text,
}

impl Default for Details {
    fn default() -> Self {
        Details {
            token: [0; 16],
            limiter: [0; 16],
            since: 0,
            expires: 0,
            pid: 0,
            process: 0,
            database: 0,
            kind: FREE,
            pending: 0,
            text: Text::default(),
        }
    }
}

impl Details {
    /// Writes no more of the text than there is: most are short.
    pub(super) fn fill(&mut self, claim: &Claim<'_>, now: Micros) {
        self.kind = match claim.terms {
            Terms::Transaction => TRANSACTION,
            Terms::Session => SESSION,
            Terms::Lease { durable: false, .. } => LEASE,
            Terms::Lease { durable: true, .. } => DURABLE_LEASE,
        };
        if let Terms::Lease { random, .. } = claim.terms {
            self.token = random;
        }
        self.pending = 0;
        self.since = now;
        self.limiter = claim.limiter;
        self.pid = claim.pid;
        self.process = claim.process;
        self.database = claim.database;
        self.text.set(claim.text);
    }

    /// Fills in a lease of which nobody knows any more who took it.
    pub(super) fn fill_again(&mut self, lease: &Lease) {
        let Lease { token: random, durable, database, limiter, since, .. } = *lease;
        let (terms, text) = (Terms::Lease { random, ttl: 0, durable }, lease.text.as_bytes());
        self.fill(&Claim { terms, process: 0, pid: 0, database, limiter, text }, since);
    }

    fn kind(&self) -> Option<Kind> {
        match self.kind {
            TRANSACTION => Some(Kind::Transaction),
            SESSION => Some(Kind::Session),
            LEASE | DURABLE_LEASE => Some(Kind::Lease),
            _ => None,
        }
    }

    pub(super) fn is_lease(&self) -> bool {
        matches!(self.kind, LEASE | DURABLE_LEASE)
    }
}

/// A slot of the server, taken or free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Holder {
    pub(super) links: Links,
    pub(super) semaphore: Link,
    pub(super) details: Details,
}

linked!(Holder);

impl Holder {
    pub(super) fn is_taken(&self) -> bool {
        self.details.kind != FREE
    }

    pub(super) fn set_free(&mut self) {
        self.details.kind = FREE;
    }

    pub(super) fn is_pending(&self) -> bool {
        self.details.pending != 0
    }

    pub(super) fn set_pending(&mut self, pending: bool) {
        self.details.pending = u8::from(pending);
    }

    /// A lease whose time has begun.
    pub(super) fn is_running_lease(&self) -> bool {
        self.details.is_lease() && !self.is_pending()
    }

    pub(super) fn expired(&self, now: Micros) -> bool {
        self.is_running_lease() && self.details.expires <= now
    }

    pub(super) fn describe(&self, index: usize, key: Key) -> Option<Holding<'_>> {
        let details = &self.details;
        let running = self.is_running_lease();
        Some(Holding {
            index: index as u32,
            key,
            kind: details.kind()?,
            pending: self.is_pending(),
            process: details.process,
            pid: details.pid,
            database: details.database,
            limiter: details.limiter,
            text: &details.text,
            since: details.since,
            token: running.then_some(details.token),
            durable: details.kind == DURABLE_LEASE,
            expires: running.then_some(details.expires),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_four_cache_lines() {
        assert_eq!(size_of::<Holder>(), 256);
    }
}
