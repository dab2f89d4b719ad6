//! Where calls count: what they do, for a definition and a key.
//!
//! All limits count in a table of cells. That of shared memory is everybody's; a session has one of its own where there is none, for
//! durable limits only.

mod slots;
mod wait;

use std::rc::Rc;

use pgrx::pg_sys;
use ratelimit_core::table::{rule_key, Cell, Full, Key, OnFull, Request, Taken, Unable};
use ratelimit_core::{Brief, Decision, Now, Operation, Reason, Receipts, Rule};
use smallvec::SmallVec;

use crate::catalog::{self, DefinedRule, Definition, Id, Stake};
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
}

/// What a call asks, rule by rule, and of whom.
#[derive(Default)]
pub struct Asked<'a> {
    pub requests: SmallVec<[Request<'a>; 4]>,
    of: SmallVec<[Of<'a>; 4]>,
    /// Of whom a slot is asked as well.
    slots: SmallVec<[(&'a Definition, &'a [u8]); 1]>,
    /// Of whom slots are all there is to tell, and none is asked.
    shown: Option<(&'a Definition, &'a [u8])>,
    /// Whether all that is taken has to be remembered, for as long as the call may be interrupted.
    waits: bool,
}

/// Whom a call is for.
struct Subject<'a> {
    limiter: &'a Definition,
    key: Key,
    text: &'a [u8],
}

/// Whom a request is for: a limiter, one of its rules, and a key.
pub type Of<'a> = (&'a Definition, &'a Rc<DefinedRule>, &'a [u8]);

impl<'a> Asked<'a> {
    /// What one call for one key asks.
    pub fn new(limiter: &'a Definition, key: &'a [u8], cost: u64) -> Result<Self> {
        let requests = limiter.requests(key, cost)?;
        let of = limiter.rules().iter().map(|rule| (limiter, rule, key)).collect();
        let bounded = limiter.max_concurrent().map(|_| (limiter, key));
        let slots = bounded.filter(|_| cost > 0).into_iter().collect();
        let shown = bounded.filter(|_| cost == 0 && limiter.rules().is_empty());
        Ok(Asked { requests, of, slots, shown, waits: false })
    }

    /// Whether a slot is asked as well.
    pub fn has_slots(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Adds the slot that one call for one key needs.
    pub fn push_slots(&mut self, other: &Asked<'a>) {
        self.slots.extend_from_slice(&other.slots);
    }

    /// Adds what is asked of one rule.
    pub fn push(&mut self, request: Request<'a>, of: Of<'a>) {
        self.requests.push(request);
        self.of.push(of);
    }

    /// Whom each request is for.
    pub fn parts(self) -> impl Iterator<Item = (Request<'a>, Of<'a>)> {
        self.requests.into_iter().zip(self.of)
    }

    /// What is asked at most of any rule.
    fn cost(&self) -> u64 {
        self.requests.iter().map(|request| request.cost).max().unwrap_or(0)
    }

    /// The calls: each for a limiter and a key, however many rules there are.
    fn calls(&self) -> impl Iterator<Item = Subject<'a>> + use<'a, '_> {
        let rates = (0..self.requests.len()).filter(|n| self.requests[*n].primary);
        let alone = self.slots.iter().enumerate();
        let alone = alone.filter(|(_, (limiter, _))| limiter.rules().is_empty());
        let alone = alone.map(|(n, _)| self.requests.len() + n);
        rates.chain(alone).filter_map(|n| self.subject(n))
    }

    /// Whose is the rule or slot of this number, as [`Decision::binding`] counts.
    fn subject(&self, n: usize) -> Option<Subject<'a>> {
        match self.of.get(n).zip(self.requests.get(n)) {
            Some(((limiter, rule, text), request)) => {
                // The position is mixed into the key, and so out of it.
                Some(Subject { limiter, key: rule_key(request.key, rule.position), text })
            }
            None => {
                let (limiter, text) = *self.slots.get(n.checked_sub(self.of.len())?)?;
                Some(Subject { limiter, key: limiter.key(text), text })
            }
        }
    }

    /// The key as the tables know it.
    fn digest(&self, n: usize) -> Id {
        let (definition, rule, key) = self.of[n];
        definition.digest(key, rule)
    }

    fn stake(&self, n: usize) -> Stake {
        self.of[n].1.stake
    }

    fn is_remembered(&self, n: usize) -> bool {
        self.waits || self.stake(n) != Stake::Keep
    }

    /// Whether nothing that is asked needs to be remembered.
    fn is_kept(&self) -> bool {
        (0..self.of.len()).all(|n| !self.is_remembered(n))
    }

    fn durable(&self) -> impl Iterator<Item = usize> + use<> {
        let durable: SmallVec<[usize; 4]> =
            (0..self.of.len()).filter(|n| self.stake(*n) == Stake::Durable).collect();
        durable.into_iter()
    }
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
        Ok(Store { header, function: call.function() })
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
        let Some(request) = limiter.only_request(key, cost) else {
            return Ok(self.decide(limiter, key, cost, Operation::Take)?.allowed);
        };
        if !config::enabled() {
            limiter.stats().passed();
            return Ok(true);
        }
        match limiter.stake() {
            Stake::Keep => {
                let now = self.now(std::slice::from_ref(&request));
                let taken = self.header.table().try_take(&request, now);
                let brief = taken.unwrap_or_else(|_| match config::on_full() {
                    OnFull::Allow => Brief::ALLOWED,
                    OnFull::Deny | OnFull::Evict => Brief::REFUSED,
                });
                count_only(limiter, &request, key, brief, now);
                Ok(brief.allowed)
            }
            Stake::Refund | Stake::Durable => self.try_take_for_now(limiter, key, request),
        }
    }

    /// The same where the transaction may have to give back. The short way is for a copy that is there.
    fn try_take_for_now(
        &self,
        limiter: &Definition,
        key: &[u8],
        mut request: Request<'_>,
    ) -> Result<bool> {
        if !request.durable || durable::has_chosen() && shmem::is_shared(self.header) {
            request.pin = !transaction::pins(request.key);
            let now = self.now(std::slice::from_ref(&request));
            if let Ok((brief, receipt)) = self.header.table().try_take_with_receipt(&request, now) {
                if let Some(receipt) = receipt {
                    let rule = &limiter.rules()[0];
                    let new = || (rule.clone(), digest_of(limiter, key, rule));
                    transaction::record(self.header, &request, receipt, new);
                }
                count_only(limiter, &request, key, brief, now);
                return Ok(brief.allowed);
            }
        }
        Ok(self.decide(limiter, key, request.cost, Operation::Take)?.allowed)
    }

    /// Takes the cost or nothing, or only looks, and says all about it.
    pub fn decide(
        &self,
        limiter: &Definition,
        key: &[u8],
        cost: u64,
        operation: Operation,
    ) -> Result<Decision> {
        self.decide_all(&mut Asked::new(limiter, key, cost)?, operation)
    }

    /// The same for requests to several limiters.
    pub fn decide_all(&self, asked: &mut Asked<'_>, operation: Operation) -> Result<Decision> {
        if !config::enabled() {
            if operation == Operation::Take {
                count_passed(asked);
            }
            return Ok(Decision::unlimited());
        }
        match operation {
            Operation::Take => {
                let decision = self.with_slots(
                    asked,
                    |asked| self.decide_rates(asked, operation),
                    |decision| decision.allowed,
                    |refused| refused,
                )?;
                self.count(asked, decision.brief(asked.cost()), decision.binding);
                Ok(decision)
            }
            Operation::Peek => match self.missing_slot(asked)? {
                Some(refused) => Ok(refused),
                None => self.decide_rates(asked, operation),
            },
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
    pub fn standing(&self, limiter: &Definition, key: &[u8]) -> Result<(Decision, Decision)> {
        if !config::enabled() {
            return Ok((Decision::unlimited(), Decision::unlimited()));
        }
        let one = Asked::new(limiter, key, 1)?;
        if let Some(refused) = self.missing_slot(&one)? {
            return Ok((refused, refused));
        }
        if limiter.rules().is_empty() {
            let standing = self.and_slots(&one, Decision::unlimited(), Operation::Take)?;
            return Ok((standing, standing));
        }
        let table = self.header.table();
        self.run(
            &mut Asked::new(limiter, key, 0)?,
            false,
            |nothing, now, _| {
                let standing = table.decide(nothing, now, Operation::Peek, None)?;
                Ok((standing, table.decide(&one.requests, now, Operation::Peek, None)?))
            },
            |full, asked, now| (self.when_full(full, asked, now), self.when_full(full, asked, now)),
            |_| false,
        )
    }

    /// Takes as much as is left, up to `at_most`.
    pub fn take_at_most(&self, limiter: &Definition, key: &[u8], at_most: u64) -> Result<u64> {
        let mut asked = Asked::new(limiter, key, at_most)?;
        if !config::enabled() {
            count_passed(&asked);
            return Ok(at_most);
        }
        let table = self.header.table();
        let granted = self.with_slots(
            &mut asked,
            |asked| {
                // Where there are only slots, nothing limits what goes with one.
                if asked.requests.is_empty() {
                    return Ok(at_most);
                }
                self.run(
                    asked,
                    true,
                    |requests, now, taken| table.take_at_most(requests, now, taken),
                    |_, asked, _| if self.lets_pass(asked) { at_most } else { 0 },
                    |granted| *granted > 0,
                )
            },
            |granted| *granted > 0,
            |_| 0,
        )?;
        // What is not all is all that was left.
        let (allowed, near_limit) = (granted > 0 || at_most == 0, granted < at_most && granted > 0);
        self.count(&asked, Brief { allowed, near_limit }, 0);
        Ok(granted)
    }

    /// Takes whether it fits or not.
    pub fn charge(&self, limiter: &Definition, key: &[u8], cost: u64) -> Result<()> {
        let mut asked = Asked::new(limiter, key, cost)?;
        if !config::enabled() {
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
        let mut asked = Asked::new(limiter, key, cost)?;
        if !config::enabled() || cost == 0 {
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
        let table = self.header.table();
        if limiter.stake() != Stake::Durable {
            let now = self.header.clock.now().steady;
            return Ok(table.reset(limiter.key(key), limiter.positions(), now));
        }
        let mut asked = Asked::new(limiter, key, 0)?;
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

    /// Counts what was decided on all calls together: refused, it was the one that binds.
    fn count(&self, asked: &Asked<'_>, brief: Brief, binding: usize) {
        let binding = asked.subject(binding);
        if brief.allowed {
            asked.calls().for_each(|call| call.limiter.stats().allowed(call.key));
            if let Some(call) = binding.filter(|_| brief.near_limit) {
                call.limiter.stats().near_limit();
            }
        } else if let Some(call) = binding {
            let at = self.header.clock.read().wall;
            call.limiter.stats().denied(call.key, call.text, at);
        }
    }

    /// Runs `action` on the table with all that goes with it for limits that are more than kept in memory: copies are loaded, and what
    /// is taken is remembered. `full` answers where a new key finds no room; `took` says whether an answer means that something was
    /// taken.
    fn run<R>(
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
    fn lets_pass(&self, asked: &Asked<'_>) -> bool {
        config::on_full() == OnFull::Allow && asked.durable().next().is_none()
    }

    /// The answer for a new key when nothing is free.
    fn when_full(&self, full: Full, asked: &Asked<'_>, now: Now) -> Decision {
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

/// Counts calls that nothing was asked of.
fn count_passed(asked: &Asked<'_>) {
    asked.calls().for_each(|call| call.limiter.stats().passed());
}

/// Counts what was decided on the only request of a call.
#[inline(always)]
fn count_only(limiter: &Definition, request: &Request<'_>, text: &[u8], brief: Brief, now: Now) {
    let key = rule_key(request.key, limiter.rules()[0].position);
    if brief.allowed {
        limiter.stats().allowed(key);
        if brief.near_limit {
            limiter.stats().near_limit();
        }
    } else {
        limiter.stats().denied(key, text, now.wall);
    }
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
