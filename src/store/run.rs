//! Runs what reads or changes cells with all that goes with it for limits that are more than kept in memory, and answers where there is no
//! room.

use pgrx::pg_sys;
use ratelimit_core::table::{Full, OnFull, Request, Taken, Unable};
use ratelimit_core::{Decision, Now, Reason};
use smallvec::SmallVec;

use super::{Asked, Store};
use crate::catalog::{Id, Stake};
use crate::config;
use crate::durable;
use crate::error::{Error, Result};
use crate::shmem;
use crate::transaction;

impl Store {
    /// Runs `action` on the table with all that goes with it for limits that are more than kept in memory: copies are loaded, and what
    /// is taken is remembered. `full` answers where a new key finds no room; `took` says whether an answer means that something was
    /// taken.
    pub(super) fn run<R>(
        &self,
        asked: &mut Asked<'_>,
        takes: bool,
        mut action: impl FnMut(
            &[Request<'_>],
            Now,
            Option<&mut Taken>,
        ) -> std::result::Result<R, Unable>,
        full: impl Fn(Full, &Asked<'_>, Now) -> R,
        took: impl Fn(&R) -> bool,
    ) -> Result<R> {
        if asked.is_kept() {
            let now = self.now(&asked.requests);
            return match action(&asked.requests, now, None) {
                Ok(answer) => Ok(answer),
                Err(Unable::Full(why)) => Ok(full(why, asked, now)),
                Err(Unable::Unloaded) => {
                    Err(Error::internal("a limit of shared memory has no copy"))
                }
            };
        }
        let locked = self.prepare(asked, takes)?;
        let mut taken = Taken::new();
        let answer = loop {
            for (n, request) in asked.requests.iter_mut().enumerate() {
                let remembered = asked.waits || asked.of[n].1.stake != Stake::Keep;
                request.pin = takes && remembered && !transaction::pins(request.key);
            }
            let now = self.now(&asked.requests);
            taken.clear();
            match action(&asked.requests, now, Some(&mut taken)) {
                Ok(answer) => break answer,
                Err(Unable::Full(why)) => break full(why, asked, now),
                Err(Unable::Unloaded) => {
                    if let Err(why) = self.load(asked)? {
                        break full(why, asked, now);
                    }
                }
            }
            pgrx::check_for_interrupts!();
        };
        for (n, receipt) in taken.iter().enumerate() {
            if let Some(receipt) = receipt.filter(|_| asked.is_remembered(n)) {
                let new = || (asked.of[n].1.clone(), asked.digest(n));
                transaction::record(self.header, &asked.requests[n], receipt, new);
            }
        }
        if !took(&answer) {
            locked.into_iter().for_each(durable::unlock);
        }
        Ok(answer)
    }

    /// What has to be there before the clock is read. Without shared memory the keys are locked, and read anew; the answer is those
    /// that were locked here.
    fn prepare(&self, asked: &Asked<'_>, takes: bool) -> Result<SmallVec<[Id; 4]>> {
        let mut locked = SmallVec::new();
        if asked.durable().next().is_none() {
            return Ok(locked);
        }
        if takes {
            let rule = asked.durable().next().map(|n| asked.of[n].1);
            durable::enter(self.header, rule.map_or(pg_sys::Oid::INVALID, |rule| rule.schema))?;
        }
        if shmem::is_shared(self.header) {
            return Ok(locked);
        }
        let mut digests: SmallVec<[(Id, usize); 4]> =
            asked.durable().map(|n| (asked.digest(n), n)).collect();
        // All in the same order, so that nobody waits in a circle.
        digests.sort_unstable();
        for (digest, n) in digests {
            let key = asked.requests[n].key;
            if transaction::pins(key) {
                continue;
            }
            if takes {
                durable::lock(digest);
                locked.push(digest);
            }
            self.header.table().discard(key);
        }
        Ok(locked)
    }

    /// Fills all copies that are asked for.
    #[cold]
    fn load(&self, asked: &Asked<'_>) -> Result<std::result::Result<(), Full>> {
        for n in asked.durable() {
            let rule = asked.of[n].1;
            let loaded = durable::load(self.header, &asked.requests[n], rule, asked.digest(n))?;
            if loaded.is_err() {
                return Ok(loaded);
            }
        }
        Ok(Ok(()))
    }

    /// Whether `on_full` lets a new key pass: but what is durable is never let pass uncounted.
    pub(super) fn lets_pass(&self, asked: &Asked<'_>) -> bool {
        config::on_full() == OnFull::Allow && asked.durable().next().is_none()
    }

    /// The answer for a new key when nothing is free.
    pub(super) fn when_full(&self, full: Full, asked: &Asked<'_>, now: Now) -> Decision {
        if self.lets_pass(asked) {
            return Decision::unlimited();
        }
        Decision {
            allowed: false,
            quota: asked.requests.first().map_or(0, |request| request.rule.capacity()),
            remaining: 0,
            retry_after: Some(full.until.saturating_sub(now.steady).max(1)),
            reset_after: 0,
            reason: Some(Reason::Rate),
            binding: 0,
        }
    }
}
