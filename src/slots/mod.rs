//! Concurrency slots: the `max_concurrent` of a limiter bounds how many hold a slot of one key.
//!
//! Shared memory decides: [`ratelimit_core::slots`], under one LWLock. A slot of a transaction or a session is a lock of PostgreSQL's lock
//! manager as well, one that nobody else asks for: so it is seen in pg_locks, and the server lets it go when its owner ends, however that
//! is. Then the slot goes to the first who waits for one. A lease is in shared memory alone, or in a table: see `lease.rs`.
//!
//! Where no memory is shared (before PostgreSQL 17, without preload) the locks decide: see `bare.rs`.

mod bare;
mod changes;
mod deadlock;
mod hold;
mod lease;
mod lock;
mod view;
mod wait;

pub use hold::Term;
pub use lease::{no_lease, release, renew};
pub use view::all;

use pgrx::pg_sys;
use ratelimit_core::slots::{Claim, Refused, Terms, MAX_TEXT};
use ratelimit_core::table::Key;
use ratelimit_core::Micros;

use crate::backend;
use crate::catalog::Definition;
use crate::encoding;
use crate::error::{Error, Result};
use crate::shmem::{self, Header};

/// Registers for what PostgreSQL has to tell; the postmaster's children inherit it.
pub fn install() {
    hold::install();
    changes::install();
}

/// Whose slots: a limiter and a key.
#[derive(Clone, Copy)]
pub struct Slots<'a> {
    header: &'static Header,
    /// One of the extension's functions.
    function: pg_sys::Oid,
    limiter: &'a Definition,
    text: &'a [u8],
    key: Key,
    capacity: u32,
}

impl<'a> Slots<'a> {
    /// None where the limiter has no `max_concurrent`.
    pub fn of(
        header: &'static Header,
        function: pg_sys::Oid,
        limiter: &'a Definition,
        text: &'a [u8],
    ) -> Option<Self> {
        let capacity = limiter.max_concurrent()?;
        // What is derived from a process's own secret is no name among processes.
        let shared = shmem::is_shared(header);
        let key = if shared { limiter.slot_key(text) } else { limiter.durable_key(text) };
        Some(Slots { header, function, limiter, text, key, capacity })
    }

    fn is_shared(&self) -> bool {
        shmem::is_shared(self.header)
    }

    /// How many there are, whoever has them.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many could be taken now.
    pub fn free(&self) -> Result<u32> {
        if !self.is_shared() {
            return self.count_unlocked();
        }
        let now = self.now();
        Ok(self.header.with_slots(|slots| slots.free(self.key, self.capacity, now)))
    }

    /// Takes a slot if that needs no waiting.
    pub fn try_take(&self, term: Term) -> Result<bool> {
        hold::reserve();
        match self.try_claim(terms(term))? {
            Some(number) => self.keep(number, term),
            None => Ok(false),
        }
    }

    /// The number of a slot, if that needs no waiting. Where the server can hold no more, others' leases may have expired.
    fn try_claim(&self, terms: Terms) -> Result<Option<u32>> {
        if !self.is_shared() {
            return self.try_lock(terms);
        }
        let claim = self.claim(terms);
        let take = || {
            let now = self.now();
            self.header.with_slots(|slots| slots.try_take(self.key, self.capacity, now, &claim))
        };
        let taken = take().or_else(|refused| {
            if refused == Refused::Ceiling {
                self.header.sweep_slots();
                return take();
            }
            Err(refused)
        });
        match taken {
            Ok(number) => Ok(Some(number)),
            Err(Refused::Taken) => Ok(None),
            Err(Refused::Ceiling) => Err(self.ceiling()),
        }
    }

    /// Takes a slot when it is this session's turn; no later than `until`.
    pub fn take(&self, term: Term, until: Option<Micros>) -> Result<bool> {
        hold::reserve();
        match self.wait(terms(term), until)? {
            Some(number) => self.keep(number, term),
            None => Ok(false),
        }
    }

    /// Gives back what this session took last; says whether it had a slot.
    pub fn give_back(&self, term: Term) -> bool {
        hold::release(self.key, term)
    }

    fn keep(&self, number: u32, term: Term) -> Result<bool> {
        if !self.is_shared() {
            hold::remember(self.header, self.key, number, term);
            return Ok(true);
        }
        if term == Term::Session {
            hold::give_back_at_exit();
        }
        if hold::add(self.header, self.key, number, term) {
            Ok(true)
        } else {
            Err(self.ceiling())
        }
    }

    fn now(&self) -> Micros {
        self.header.clock.now().steady
    }

    fn ceiling(&self) -> Error {
        Error::too_many_slots(self.header.max_slots())
    }

    fn claim(&self, terms: Terms) -> Claim<'a> {
        Claim {
            terms,
            process: shmem::process(),
            // SAFETY: a plain variable.
            pid: unsafe { pg_sys::MyProcPid },
            database: backend::database(),
            limiter: self.limiter.id(),
            text: encoding::clip(self.text, MAX_TEXT),
        }
    }
}

fn terms(term: Term) -> Terms {
    match term {
        Term::Transaction => Terms::Transaction,
        Term::Session => Terms::Session,
    }
}
