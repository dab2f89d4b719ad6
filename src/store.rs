//! Where calls count: what they do, for a definition and a key.
//!
//! All limits count in a table of cells. That of shared memory is everybody's; a session has one of its own where there is none, for
//! durable limits only.

mod asked;
mod count;
mod run;
mod slots;
mod verdict;
mod wait;

use std::rc::Rc;

use pgrx::pg_sys;
use ratelimit_core::table::{Cell, OnFull, Request};
use ratelimit_core::{Brief, Decision, Now, Operation, Reason, Receipts, Rule};

pub use asked::Asked;
use count::count_plain;
pub use verdict::Verdict;

use crate::bans;
use crate::catalog::{self, DefinedRule, Definition, Id, Mode, Stake};
use crate::config;
use crate::durable;
use crate::error::{Error, Result};
use crate::function::Call;
use crate::shmem::{self, Header};
use crate::transaction;

/// Where a call counts.
#[derive(Clone, Copy)]
pub struct Store {
    header: &'static Header,
    function: pg_sys::Oid,
    /// Whether a denial is going to raise an error, which rolls back what is written for it.
    raises: bool,
}

impl Store {
    /// Refuses calls where nothing can be counted.
    #[inline(always)]
    pub fn new(call: &Call) -> Result<Self> {
        // SAFETY: a plain variable, -1 in all processes but parallel workers.
        if unsafe { pg_sys::ParallelWorkerNumber } >= 0 {
            return Err(Error::parallel_worker());
        }
        let header = shmem::get()?.unwrap_or_else(shmem::private);
        Ok(Store { header, function: call.function(), raises: false })
    }

    /// The same for calls that raise an error where they are denied.
    pub fn raising(self) -> Self {
        Store { raises: true, ..self }
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

    /// The limiter of this name, if it can be used here.
    #[inline(always)]
    pub fn limiter(&self, name: &[u8]) -> Result<Rc<Definition>> {
        let limiter = catalog::limiter(self.header, name, self.function)?;
        match limiter.stake() {
            Stake::Durable => self.check_writable(&limiter)?,
            Stake::Keep | Stake::Refund => self.check_shared()?,
        }
        Ok(limiter)
    }

    /// Refuses limits that count in shared memory where there is none.
    #[inline(always)]
    pub fn check_shared(&self) -> Result<()> {
        if shmem::is_shared(self.header) {
            Ok(())
        } else {
            Err(Error::not_preloaded())
        }
    }

    fn check_writable(&self, limiter: &Definition) -> Result<()> {
        // SAFETY: a plain variable, true on standbys, too.
        if unsafe { pg_sys::XactReadOnly } {
            return Err(Error::read_only(&limiter.name));
        }
        Ok(())
    }

    /// Takes the cost, or nothing.
    #[inline(always)]
    pub fn try_take(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<bool> {
        let listed = limiter.list_key(key);
        let in_full = || Ok(self.decide(limiter, key, cost, Operation::Take)?.allowed);
        let (Some(mut request), Some(mut rule)) =
            (limiter.plain_request(listed, cost), limiter.rules().first())
        else {
            return in_full();
        };
        if !config::enabled() {
            limiter.stats().passed();
            return Ok(true);
        }
        let verdict;
        if self.may_be_listed(limiter, listed) {
            verdict = self.look_up(limiter, key, listed)?;
            match &verdict {
                Verdict::Limited(Some(own)) => {
                    (request.rule, request.mark, rule) = (&own.rule, own.mark, own);
                }
                Verdict::Limited(None) => {}
                Verdict::Passes | Verdict::ShutOut(..) => return in_full(),
            }
        }
        let (brief, now) = match limiter.stake() {
            Stake::Keep => {
                let now = self.now(std::slice::from_ref(&request));
                let brief = self.header.table().try_take(&request, now);
                let brief = brief.unwrap_or_else(|_| match config::on_full() {
                    OnFull::Allow => Brief::ALLOWED,
                    OnFull::Deny | OnFull::Evict => Brief::REFUSED,
                });
                (brief, now)
            }
            Stake::Refund | Stake::Durable => {
                match self.try_take_for_now(limiter, rule, key, request) {
                    Some(taken) => taken,
                    None => return in_full(),
                }
            }
        };
        count_plain(limiter, listed, key, brief, now);
        // What can never pass is no reason to be banned.
        if !brief.allowed
            && limiter.bans().is_some()
            && (1..=request.rule.capacity()).contains(&cost)
        {
            bans::denied(self.header, limiter, key, listed, self.raises)?;
        }
        Ok(brief.allowed)
    }

    /// The same, and why not.
    pub fn refusal(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<Option<Decision>> {
        let operation = match limiter.bans() {
            None if self.try_take(limiter, key, cost)? => return Ok(None),
            None => Operation::Peek,
            // The denial for which a key is banned is still reported as what it was.
            Some(_) => Operation::Take,
        };
        let decision = self.decide(limiter, key, cost, operation)?;
        Ok(Some(decision).filter(|decision| operation == Operation::Peek || !decision.allowed))
    }

    /// The same where the transaction may have to give back. The short way is for a copy that is there.
    fn try_take_for_now(
        &self,
        limiter: &Definition,
        rule: &Rc<DefinedRule>,
        key: &[u8],
        mut request: Request<'_>,
    ) -> Option<(Brief, Now)> {
        if !request.durable || durable::has_chosen() && shmem::is_shared(self.header) {
            request.pin = !transaction::pins(request.key);
            let now = self.now(std::slice::from_ref(&request));
            if let Ok((brief, receipt)) = self.header.table().try_take_with_receipt(&request, now) {
                if let Some(receipt) = receipt {
                    let new = || (rule.clone(), digest_of(limiter, key, rule));
                    transaction::record(self.header, &request, receipt, new);
                }
                return Some((brief, now));
            }
        }
        None
    }

    /// Takes the cost or nothing, or only looks, and says all about it.
    pub fn decide(
        &self,
        limiter: &Definition,
        key: &[u8],
        cost: u64,
        operation: Operation,
    ) -> Result<Decision> {
        let verdict = self.verdict(limiter, key)?;
        let mut asked = Asked::new(limiter, &verdict, key, cost)?;
        let decision = self.decide_all(&mut asked, operation)?;
        if operation == Operation::Take {
            self.count_asked(&asked, limiter, key, decision.brief(cost));
        }
        Ok(as_said(limiter, decision))
    }

    /// The same for requests to several limiters, none of them in shadow. For statistics, the caller counts it.
    pub fn decide_all(&self, asked: &mut Asked<'_>, operation: Operation) -> Result<Decision> {
        if let Some(decision) = asked.settled() {
            return Ok(decision);
        }
        let decision = match operation {
            Operation::Take => self.with_slots(
                asked,
                |asked| self.decide_rates(asked, operation),
                |decision| decision.allowed,
                |refused| refused,
            )?,
            Operation::Peek => match self.missing_slot(asked)? {
                Some(refused) => refused,
                None => self.decide_rates(asked, operation)?,
            },
        };
        if operation == Operation::Take && decision.reason == Some(Reason::Rate) {
            self.count_denial(asked, decision.binding)?;
        }
        Ok(decision)
    }

    /// Remembers that a request was refused, where that may lead to a ban.
    fn count_denial(&self, asked: &Asked<'_>, request: usize) -> Result<()> {
        match asked.whom(request) {
            Some((limiter, key)) if limiter.bans().is_some() => {
                bans::denied(self.header, limiter, key, limiter.list_key(key), self.raises)
            }
            _ => Ok(()),
        }
    }

    fn decide_rates(&self, asked: &mut Asked<'_>, operation: Operation) -> Result<Decision> {
        let takes = operation == Operation::Take;
        let table = self.header.table();
        let decision = self.run(
            asked,
            takes,
            |requests, now, taken| table.decide(requests, now, operation, taken),
            |full, asked, now| self.when_full(full, asked, now),
            |decision| decision.allowed,
        )?;
        self.and_slots(asked, decision, operation)
    }

    /// What a key has left, and what a call for it would be answered, both at the same moment.
    pub fn standing(
        &self,
        limiter: &Definition,
        verdict: &Verdict,
        key: &[u8],
    ) -> Result<(Decision, Decision)> {
        let one = Asked::new(limiter, verdict, key, 1)?;
        if let Some(decision) = one.settled() {
            return Ok((decision, as_said(limiter, decision)));
        }
        if let Some(refused) = self.missing_slot(&one)? {
            return Ok((refused, as_said(limiter, refused)));
        }
        if limiter.rules().is_empty() {
            let standing = self.and_slots(&one, Decision::unlimited(), Operation::Take)?;
            return Ok((standing, standing));
        }
        let table = self.header.table();
        let (standing, next) = self.run(
            &mut Asked::new(limiter, verdict, key, 0)?,
            false,
            |nothing, now, _| {
                let standing = table.decide(nothing, now, Operation::Peek, None)?;
                Ok((standing, table.decide(&one.requests, now, Operation::Peek, None)?))
            },
            |full, asked, now| (self.when_full(full, asked, now), self.when_full(full, asked, now)),
            |_| false,
        )?;
        Ok((standing, as_said(limiter, next)))
    }

    /// Takes as much as is left, up to `at_most`.
    pub fn take_at_most(&self, limiter: &Definition, key: &[u8], at_most: u64) -> Result<u64> {
        let granted = self.take_what_is_left(limiter, key, at_most)?;
        // Where it is not all that was asked, nothing is left.
        let (some, all) = (granted > 0, granted == at_most);
        self.count(limiter, key, Brief { allowed: some || all, near_limit: some && !all });
        Ok(if limiter.mode() == Mode::Shadow { at_most } else { granted })
    }

    fn take_what_is_left(&self, limiter: &Definition, key: &[u8], at_most: u64) -> Result<u64> {
        let verdict = self.verdict(limiter, key)?;
        let mut asked = Asked::new(limiter, &verdict, key, at_most)?;
        if let Some(decision) = asked.settled() {
            return Ok(if decision.allowed { at_most } else { 0 });
        }
        let table = self.header.table();
        // Another slot may be free when the next call comes, whatever is left of the rates.
        let mut used_up = false;
        let granted = self.with_slots(
            &mut asked,
            |asked| {
                // Where there are only slots, nothing limits what goes with one.
                if asked.requests.is_empty() {
                    return Ok(at_most);
                }
                let granted = self.run(
                    asked,
                    true,
                    |requests, now, taken| table.take_at_most(requests, now, taken),
                    |_, asked, _| if self.lets_pass(asked) { at_most } else { 0 },
                    |granted| *granted > 0,
                )?;
                used_up = granted == 0 && asked.requests.iter().all(|r| r.rule.capacity() > 0);
                Ok(granted)
            },
            |granted| *granted > 0,
            |_| 0,
        )?;
        if used_up && at_most > 0 {
            self.count_denial(&asked, 0)?;
        }
        Ok(granted)
    }

    /// Takes whether it fits or not.
    pub fn charge(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<()> {
        let verdict = self.verdict(limiter, key)?;
        let mut asked = Asked::new(limiter, &verdict, key, cost)?;
        if asked.requests.is_empty() {
            return Ok(());
        }
        let table = self.header.table();
        self.run(
            &mut asked,
            true,
            |requests, now, taken| table.charge(requests, now, taken).map(|()| true),
            // In memory a key without room is refused or let pass as `on_full` says, charged or not.
            |_, asked, _| asked.durable().next().is_none(),
            |charged| *charged,
        )
        .and_then(|charged| if charged { Ok(()) } else { Err(Error::full()) })
    }

    /// Gives back. Where a rollback would have to undo it, only what this part of the transaction took itself is given back at once,
    /// and the rest when it commits.
    pub fn refund(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<()> {
        let verdict = self.verdict(limiter, key)?;
        let mut asked = Asked::new(limiter, &verdict, key, cost)?;
        if asked.requests.is_empty() || cost == 0 {
            return Ok(());
        }
        limiter.stats().refunded(cost);
        let table = self.header.table();
        if asked.is_kept() {
            // Where a key has no room there is nothing to give back.
            let _ = table.refund(&asked.requests, self.now(&asked.requests));
            return Ok(());
        }
        self.hold(&mut asked)?;
        let now = self.now(&asked.requests);
        for (n, request) in asked.requests.iter().enumerate() {
            let rule = asked.of[n].1;
            let undo =
                |rule: &Rule, taken: &Receipts| table.undo(rule, request.key, taken, now, false);
            let rest = cost - transaction::take_back(request.key, cost, undo);
            if rest > 0 {
                let new = || (rule.clone(), asked.digest(n));
                transaction::refund_later(self.header, request, rest, new);
            }
        }
        Ok(())
    }

    /// Forgets what a key has used; says whether it had used anything. A durable key forgets when the transaction commits.
    pub fn reset(&self, limiter: &Definition, key: &[u8]) -> Result<bool> {
        let (table, table_key) = (self.header.table(), limiter.key(key));
        // How often it was refused is in memory, whatever the storage, and is nothing that it has used.
        bans::forget_denials(self.header, table_key);
        if limiter.stake() != Stake::Durable {
            let now = self.header.clock.now().steady;
            return Ok(table.reset(table_key, limiter.positions(), now));
        }
        let verdict = self.verdict(limiter, key)?.in_general();
        let mut asked = Asked::new(limiter, &verdict, key, 0)?;
        self.hold(&mut asked)?;
        let now = self.now(&asked.requests);
        let used = match table.decide(&asked.requests, now, Operation::Peek, None) {
            Ok(standing) => standing.reset_after > 0,
            Err(_) => false,
        };
        for (n, request) in asked.requests.iter().enumerate() {
            let new = || (asked.of[n].1.clone(), asked.digest(n));
            transaction::reset_later(self.header, request, new);
        }
        Ok(used)
    }

    /// Holds the copies of all durable keys that are asked for, until the transaction ends.
    fn hold(&self, asked: &mut Asked<'_>) -> Result<()> {
        self.run(
            asked,
            true,
            |requests, now, _| {
                let table = self.header.table();
                let wanted = || requests.iter().filter(|request| request.durable && request.pin);
                for (n, request) in wanted().enumerate() {
                    if let Err(why) = table.pin(request, now) {
                        for held in wanted().take(n) {
                            table.undo(held.rule, held.key, &Receipts::default(), now, true);
                        }
                        return Err(why);
                    }
                }
                Ok(true)
            },
            |_, _, _| false,
            |held| *held,
        )
        .and_then(|held| if held { Ok(()) } else { Err(Error::full()) })?;
        for request in &mut asked.requests {
            request.pin &= request.durable;
        }
        Ok(())
    }
}

/// What a limiter says to its own decision: in shadow it refuses nothing.
fn as_said(limiter: &Definition, decision: Decision) -> Decision {
    let allowed = decision.allowed || limiter.mode() == Mode::Shadow;
    Decision { allowed, ..decision }
}

fn digest_of(limiter: &Definition, key: &[u8], rule: &DefinedRule) -> Id {
    match rule.stake {
        Stake::Durable => limiter.digest(key, rule),
        Stake::Keep | Stake::Refund => Id::default(),
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
