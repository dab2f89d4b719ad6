//! Limits that count in shared memory: what the calls do, for a definition and a key.

use std::rc::Rc;

use pgrx::pg_sys;
use ratelimit_core::table::{Cell, Full, OnFull, Request};
use ratelimit_core::{Decision, Now, Operation, Reason};
use smallvec::SmallVec;

use crate::catalog::{self, Definition};
use crate::config;
use crate::error::{Error, Result};
use crate::function::Call;
use crate::shmem::{self, Header};

/// Where a call counts.
#[derive(Clone, Copy)]
pub struct Memory {
    header: &'static Header,
    function: pg_sys::Oid,
}

impl Memory {
    /// Refuses calls where nothing can be counted.
    #[inline(always)]
    pub fn new(call: &Call) -> Result<Self> {
        let header = shmem::get()?.ok_or_else(Error::not_preloaded)?;
        // SAFETY: a plain variable, -1 in all processes but parallel workers.
        if unsafe { pg_sys::ParallelWorkerNumber } >= 0 {
            return Err(Error::parallel_worker());
        }
        Ok(Memory { header, function: call.function() })
    }

    pub fn header(&self) -> &'static Header {
        self.header
    }

    /// The moment of a decision on these requests. Reading the clock takes about as long as the first look at a key that is in no
    /// processor's cache: so that is begun before.
    #[inline(always)]
    fn now(&self, requests: &[Request<'_>]) -> Now {
        let table = self.header.table();
        for request in requests {
            table.home(request.key).map(prefetch);
        }
        self.header.clock.now()
    }

    /// The limiter of this name.
    #[inline(always)]
    pub fn limiter(&self, name: &[u8]) -> Result<Rc<Definition>> {
        catalog::limiter(self.header, name, self.function)
    }

    /// Takes the cost, or nothing.
    #[inline(always)]
    pub fn try_take(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<bool> {
        let Some(request) = limiter.only_request(key, cost) else {
            return Ok(self.decide(limiter, key, cost, Operation::Take)?.allowed);
        };
        if !config::enabled() {
            return Ok(true);
        }
        let now = self.now(std::slice::from_ref(&request));
        let taken = self.header.table().try_take(&request, now);
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
        self.decide_at(self.now(requests), requests, operation)
    }

    fn decide_at(&self, now: Now, requests: &[Request<'_>], operation: Operation) -> Decision {
        let decision = self.header.table().decide(requests, now, operation);
        decision.unwrap_or_else(|full| when_full(full, requests, now))
    }

    /// What a key has left, and what a call for it would be answered, both at the same moment.
    pub fn standing(&self, limiter: &Definition, key: &[u8]) -> Result<(Decision, Decision)> {
        if !config::enabled() {
            return Ok((Decision::unlimited(), Decision::unlimited()));
        }
        let (nothing, one) = (limiter.requests(key, 0)?, limiter.requests(key, 1)?);
        let now = self.now(&nothing);
        let look = |requests: &[Request<'_>]| self.decide_at(now, requests, Operation::Peek);
        Ok((look(&nothing), look(&one)))
    }

    /// Takes as much as is left, up to `at_most`.
    pub fn take_at_most(&self, limiter: &Definition, key: &[u8], at_most: u64) -> Result<u64> {
        let requests = limiter.requests(key, at_most)?;
        if !config::enabled() {
            return Ok(at_most);
        }
        let granted = self.header.table().take_at_most(&requests, self.now(&requests));
        Ok(granted.unwrap_or(if config::on_full() == OnFull::Allow { at_most } else { 0 }))
    }

    /// Gives back.
    pub fn refund(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<()> {
        let requests = limiter.requests(key, cost)?;
        if config::enabled() {
            // Where a key has no room there is nothing to give back.
            let _ = self.header.table().refund(&requests, self.now(&requests));
        }
        Ok(())
    }

    /// Takes whether it fits or not.
    pub fn charge(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<()> {
        let requests = limiter.requests(key, cost)?;
        if config::enabled() {
            // Without room the key is refused or let pass as `on_full` says, charged or not.
            let _ = self.header.table().charge(&requests, self.now(&requests));
        }
        Ok(())
    }
}

/// The answer for a new key when nothing is free.
fn when_full(full: Full, requests: &[Request<'_>], now: Now) -> Decision {
    match config::on_full() {
        OnFull::Allow => Decision::unlimited(),
        OnFull::Evict | OnFull::Deny => Decision {
            allowed: false,
            quota: requests.first().map_or(0, |request| request.rule.capacity()),
            remaining: 0,
            retry_after: Some(full.until.saturating_sub(now.steady).max(1)),
            reset_after: 0,
            reason: Some(Reason::Rate),
            binding: 0,
        },
    }
}

/// Begins to fetch a cell into the processor's cache, where there is an instruction for it.
#[inline]
fn prefetch(cell: &Cell) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that reads nothing; every x86-64 processor has the instruction.
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(cell).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = cell;
}

/// A list of requests that are to be decided together.
pub type Requests<'a> = SmallVec<[Request<'a>; 4]>;
