//! Limits that count in shared memory: what the calls do, for a definition and a key.

use std::rc::Rc;

use pgrx::pg_sys;
use ratelimit_core::table::{Full, OnFull, Request};
use ratelimit_core::{Decision, Now, Operation, Reason};
use smallvec::SmallVec;

use crate::catalog::{self, Definition};
use crate::config;
use crate::error::{Error, Result};
use crate::function::Call;
use crate::shmem::{self, Header};

/// One call: where it counts, and when it was made.
#[derive(Clone, Copy)]
pub struct Moment {
    header: &'static Header,
    now: Now,
    function: pg_sys::Oid,
}

impl Moment {
    /// Refuses calls where nothing can be counted.
    #[inline]
    pub fn new(call: &Call) -> Result<Self> {
        let header = shmem::header().ok_or_else(Error::not_preloaded)?;
        // SAFETY: a plain variable, -1 in all processes but parallel workers.
        if unsafe { pg_sys::ParallelWorkerNumber } >= 0 {
            return Err(Error::parallel_worker());
        }
        Ok(Moment { header, now: header.clock.now(), function: call.function() })
    }

    pub fn header(&self) -> &'static Header {
        self.header
    }

    pub fn now(&self) -> Now {
        self.now
    }

    /// The limiter of this name.
    #[inline]
    pub fn limiter(&self, name: &[u8]) -> Result<Rc<Definition>> {
        catalog::limiter(self.header, name, self.function)
    }

    /// Takes the cost, or nothing.
    #[inline]
    pub fn try_take(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<bool> {
        let Some(request) = limiter.only_request(key, cost) else {
            return Ok(self.decide(limiter, key, cost, Operation::Take)?.allowed);
        };
        if !config::enabled() {
            return Ok(true);
        }
        let taken = self.header.table().try_take(&request, self.now);
        Ok(taken.unwrap_or_else(|_| config::on_full() == OnFull::Allow))
    }

    /// Takes the cost or nothing, or only looks, and says all about it.
    pub fn decide(
        &self,
        limiter: &Definition,
        key: &[u8],
        cost: u64,
        operation: Operation,
    ) -> Result<Decision> {
        Ok(self.decide_all(&limiter.requests(key, cost)?, operation))
    }

    /// The same for requests to several limiters.
    pub fn decide_all(&self, requests: &[Request<'_>], operation: Operation) -> Decision {
        if !config::enabled() {
            return Decision::unlimited();
        }
        let decision = self.header.table().decide(requests, self.now, operation);
        decision.unwrap_or_else(|full| self.when_full(full))
    }

    /// Takes as much as is left, up to `at_most`.
    pub fn take_at_most(&self, limiter: &Definition, key: &[u8], at_most: u64) -> Result<u64> {
        let requests = limiter.requests(key, at_most)?;
        if !config::enabled() {
            return Ok(at_most);
        }
        let granted = self.header.table().take_at_most(&requests, self.now);
        Ok(granted.unwrap_or(if config::on_full() == OnFull::Allow { at_most } else { 0 }))
    }

    /// Gives back.
    pub fn refund(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<()> {
        let requests = limiter.requests(key, cost)?;
        if config::enabled() {
            // Where a key has no room there is nothing to give back.
            let _ = self.header.table().refund(&requests, self.now);
        }
        Ok(())
    }

    /// Takes whether it fits or not.
    pub fn charge(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<()> {
        let requests = limiter.requests(key, cost)?;
        if config::enabled() {
            // Without room the key is refused or let pass as `on_full` says, charged or not.
            let _ = self.header.table().charge(&requests, self.now);
        }
        Ok(())
    }

    /// The answer for a new key when nothing is free.
    fn when_full(&self, full: Full) -> Decision {
        match config::on_full() {
            OnFull::Allow => Decision::unlimited(),
            OnFull::Evict | OnFull::Deny => Decision {
                allowed: false,
                quota: 0,
                remaining: 0,
                retry_after: Some(full.until.saturating_sub(self.now.steady).max(1)),
                reset_after: 0,
                reason: Some(Reason::Rate),
                binding: 0,
            },
        }
    }
}

/// A list of requests that are to be decided together.
pub type Requests<'a> = SmallVec<[Request<'a>; 4]>;
