//! Decisions over the table: lock what is needed, let the core decide, let go.

use smallvec::SmallVec;

use super::cell::Key;
use super::key_state::KeyState;
use super::{Full, Host, Table, Unable, Wanted};
use crate::booking::{opening, reserve, Booking};
use crate::decide::{decide, take_at_most, Limit, Operation};
use crate::decision::{Brief, Decision};
use crate::receipt::Receipt;
use crate::rule::Rule;
use crate::state::State;
use crate::time::{Micros, Now, SECOND};

/// A cost asked of one rule for one key.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The key under this rule: see [`super::rule_key`].
    pub key: Key,
    /// The limiter's tag.
    pub tag: u32,
    /// Whether this is the key's first rule, by which keys are counted.
    pub primary: bool,
    /// How much is asked.
    pub cost: u64,
    /// Whether the truth about the key is in tables: then it must have been loaded.
    pub durable: bool,
    /// Whether the caller is going to hold the key's cell, from a charge on until [`Table::undo`] lets it go.
    pub pin: bool,
    /// Tells this definition from another, most of the time.
    pub mark: u8,
}

impl Request<'_> {
    pub(super) fn first_cell(&self) -> Wanted {
        let Request { key, tag, primary, .. } = *self;
        Wanted { key, owner: key, tag, primary }
    }
}

/// What is going to be done with the limits, and so which cells must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Keys that are not there stay so.
    Look,
    /// All keys must be there if all costs fit within so long.
    Take { max_wait: Option<Micros> },
    /// All keys must be there.
    Charge,
    /// Keys that are not there stay so.
    Refund,
}

/// Most calls ask one limiter, and most limiters have one or two rules: these need no memory of the heap.
const FEW: usize = 4;
type Limits<'a, 't, H> = SmallVec<[Limit<'a, KeyState<'a, 't, H>>; FEW]>;

/// What was taken for each request, if anything.
pub type Taken = SmallVec<[Option<Receipt>; FEW]>;

impl<'t, H: Host> Table<'t, H> {
    /// Takes the cost of one request if it fits: the short way for the most frequent call.
    #[inline(always)]
    pub fn try_take(&self, request: &Request<'_>, now: Now) -> Result<Brief, Unable> {
        let Request { rule, key, cost, .. } = *request;
        if matches!(rule, Rule::SlidingLog(_)) {
            return Ok(self.decide(&[*request], now, Operation::Take, None)?.brief(cost));
        }
        loop {
            let mut state = KeyState::new(self, key, rule, now);
            let found = state.lock();
            let mut limit = Limit::new(rule, &mut state, cost);
            let Some(now) = self.unbooked(&limit, now) else { return Ok(limit.refuse_behind(now)) };
            // An untouched key is only looked at: what it refuses needs no cell.
            let taken = limit.try_take_unbooked(now);
            if found || !taken.allowed || cost == 0 {
                return Ok(taken);
            }
            self.assign(&request.first_cell(), now.steady)?;
        }
    }

    /// The same for a transaction that may have to give back what it takes.
    #[inline]
    pub fn try_take_with_receipt(
        &self,
        request: &Request<'_>,
        now: Now,
    ) -> Result<(Brief, Option<Receipt>), Unable> {
        let Request { rule, key, cost, durable, pin, .. } = *request;
        let mut state = KeyState::new(self, key, rule, now);
        let ready = !matches!(rule, Rule::SlidingLog(_)) && state.lock();
        if !ready || durable && !state.is_loaded() || pin && state.is_crowded() {
            drop(state);
            let mut taken = Taken::new();
            let decision = self.decide(&[*request], now, Operation::Take, Some(&mut taken))?;
            return Ok((decision.brief(cost), taken.first().copied().flatten()));
        }
        state.follow(request.mark);
        let now = self.after_resets(durable, now);
        let mut limit = Limit::new(rule, &mut state, cost);
        let Some(now) = self.unbooked(&limit, now) else {
            return Ok((limit.refuse_behind(now), None));
        };
        let taken = limit.try_take_unbooked_with_receipt(now);
        let receipt = limit.receipt();
        if pin && receipt.is_some() {
            state.pin();
        }
        Ok((taken, receipt))
    }

    /// The moment at which a limit is decided that is not booked further ahead.
    #[inline(always)]
    fn unbooked<S: State>(&self, limit: &Limit<'_, S>, now: Now) -> Option<Now> {
        if limit.is_ahead(now) {
            let now = self.latest(limit, now);
            return (limit.ahead(now) == 0).then_some(now);
        }
        Some(now)
    }

    /// Now, or the later moment that another process read who had the locks before us.
    pub(super) fn latest<S: State>(&self, limit: &Limit<'_, S>, now: Now) -> Now {
        if limit.is_ahead(now) && limit.ahead(now) == 0 {
            self.host.now()
        } else {
            now
        }
    }

    /// Decides on all requests together, as [`decide`] does. Each key may be named once, here and below.
    pub fn decide(
        &self,
        requests: &[Request<'_>],
        now: Now,
        operation: Operation,
        taken: Option<&mut Taken>,
    ) -> Result<Decision, Unable> {
        let mode = match operation {
            Operation::Take => Mode::Take { max_wait: Some(0) },
            Operation::Peek => Mode::Look,
        };
        self.run(requests, now, mode, taken, |limits, now| decide(limits, now, operation))
    }

    /// Books the first moment at which all costs fit, if that is within the longest wait: see [`reserve`]. With the receipts it is
    /// cancelled by [`undo`](Self::undo).
    pub fn reserve(
        &self,
        requests: &[Request<'_>],
        now: Now,
        max_wait: Option<Micros>,
        taken: Option<&mut Taken>,
    ) -> Result<Booking, Unable> {
        let mode = Mode::Take { max_wait };
        self.run(requests, now, mode, taken, |limits, now| reserve(limits, now, max_wait))
    }

    /// Takes as much as fits, up to the cost, which is the same in all requests: see [`take_at_most`].
    #[expect(clippy::redundant_closure, reason = "the function itself would have to live for ever")]
    pub fn take_at_most(
        &self,
        requests: &[Request<'_>],
        now: Now,
        taken: Option<&mut Taken>,
    ) -> Result<u64, Unable> {
        self.run(requests, now, Mode::Charge, taken, |limits, now| take_at_most(limits, now))
    }

    /// Takes all costs, whether they fit or not.
    pub fn charge(
        &self,
        requests: &[Request<'_>],
        now: Now,
        taken: Option<&mut Taken>,
    ) -> Result<(), Unable> {
        self.run(requests, now, Mode::Charge, taken, |limits, now| {
            for limit in limits {
                limit.charge(now);
            }
        })
    }

    /// Gives all costs back, never above the capacity.
    pub fn refund(&self, requests: &[Request<'_>], now: Now) -> Result<(), Unable> {
        self.run(requests, now, Mode::Refund, None, |limits, now| {
            for limit in limits {
                limit.refund(now);
            }
        })
    }

    /// Runs `action` on the limits that the requests name, with all their cells locked. Under the locks nothing is allocated.
    fn run<R>(
        &self,
        requests: &[Request<'_>],
        now: Now,
        mode: Mode,
        mut taken: Option<&mut Taken>,
        action: impl FnOnce(&mut [Limit<'_, KeyState<'_, 't, H>>], Now) -> R,
    ) -> Result<R, Unable> {
        if let Some(taken) = &mut taken {
            taken.reserve(requests.len());
        }
        loop {
            let mut limits = self.lock_all(requests, now);
            let now = self.after_resets(requests.iter().any(|request| request.durable), now);
            let now = limits.iter().fold(now, |now, limit| self.latest(limit, now));
            match missing(requests, &mut limits, now, mode) {
                Missing::Nothing => {
                    if mode != Mode::Look {
                        for (request, limit) in requests.iter().zip(&mut limits) {
                            limit.state().follow(request.mark);
                        }
                    }
                    let answer = action(&mut limits, now);
                    if let Some(taken) = taken {
                        hold(requests, &mut limits, taken);
                    }
                    return Ok(answer);
                }
                Missing::Copy => return Err(Unable::Unloaded),
                Missing::Pin => {
                    return Err(Full { until: now.steady.saturating_add(SECOND) }.into())
                }
                Missing::FirstCells => {
                    drop(limits);
                    for request in requests.iter().filter(|request| request.cost > 0) {
                        self.assign(&request.first_cell(), now.steady)?;
                    }
                }
                Missing::Further(wanted) => {
                    drop(limits);
                    self.assign(&wanted, now.steady)?;
                }
            }
        }
    }

    /// The moment to decide at, with the cells locked. The tables order what happened by its time: who read the clock before a reset and
    /// has its turn after it must not seem to come before.
    #[inline(always)]
    fn after_resets(&self, durable: bool, now: Now) -> Now {
        if durable && now.steady <= self.host.last_reset() {
            self.host.now()
        } else {
            now
        }
    }

    /// Locks the cells of all requests that have one, in the order of their keys, so that nobody waits in a circle.
    fn lock_all<'a>(&'a self, requests: &[Request<'a>], now: Now) -> Limits<'a, 't, H> {
        let limit = |request: &Request<'a>| {
            let Request { rule, key, cost, .. } = *request;
            Limit::new(rule, KeyState::new(self, key, rule, now), cost)
        };
        let mut limits: Limits<'a, 't, H> = requests.iter().map(limit).collect();
        let mut order: SmallVec<[(Key, usize); FEW]> =
            requests.iter().enumerate().map(|(n, request)| (request.key, n)).collect();
        order.sort_unstable();
        for (_, n) in order {
            if let Some(limit) = limits.get_mut(n) {
                limit.state().lock();
            }
        }
        limits
    }
}

/// Collects the receipts, and pins the cells that are to be held. The room for them is there.
fn hold<H: Host>(
    requests: &[Request<'_>],
    limits: &mut [Limit<'_, KeyState<'_, '_, H>>],
    taken: &mut Taken,
) {
    for (request, limit) in requests.iter().zip(limits) {
        let receipt = limit.receipt();
        if request.pin && receipt.is_some() {
            limit.state().pin();
        }
        taken.push(receipt);
    }
}

/// What the action will write and what is not there yet.
enum Missing {
    Nothing,
    /// What the tables say of a durable key.
    Copy,
    /// Room for one more transaction to hold a cell: there are 65,535 already.
    Pin,
    /// Some of the keys have no cell.
    FirstCells,
    /// A further cell of a log.
    Further(Wanted),
}

fn missing<H: Host>(
    requests: &[Request<'_>],
    limits: &mut [Limit<'_, KeyState<'_, '_, H>>],
    now: Now,
    mode: Mode,
) -> Missing {
    let prepared = |limit: &mut Limit<'_, KeyState<'_, '_, H>>| {
        limit.state().has_cell() && !matches!(limit.asked().0, Rule::SlidingLog(_))
    };
    for (request, limit) in requests.iter().zip(limits.iter_mut()) {
        if request.durable && !limit.state().is_loaded() {
            return Missing::Copy;
        }
        if request.pin && limit.state().is_crowded() {
            return Missing::Pin;
        }
    }
    if mode == Mode::Look || limits.iter_mut().all(prepared) {
        return Missing::Nothing;
    }
    let mut wait = 0;
    if let Mode::Take { max_wait } = mode {
        match opening(limits, now, max_wait) {
            Some(opening) => wait = opening,
            None => return Missing::Nothing,
        }
    }
    let absent = |limit: &mut Limit<'_, KeyState<'_, '_, H>>| {
        limit.asked().1 > 0 && !limit.state().has_cell()
    };
    if mode != Mode::Refund && limits.iter_mut().any(absent) {
        return Missing::FirstCells;
    }
    for (request, limit) in requests.iter().zip(limits) {
        let (rule, cost) = limit.asked();
        let then = now.plus(limit.ahead(now).max(wait));
        let state = limit.state();
        if cost == 0 || !state.has_cell() {
            continue;
        }
        if let Err(key) = state.keep_log(rule, cost, then, mode == Mode::Refund) {
            return Missing::Further(Wanted { key, primary: false, ..request.first_cell() });
        }
    }
    Missing::Nothing
}
