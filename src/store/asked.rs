//! What a call asks, and of whom.

use std::rc::Rc;

use ratelimit_core::table::Request;
use ratelimit_core::Decision;
use smallvec::SmallVec;

use super::verdict::Verdict;
use crate::catalog::{DefinedRule, Definition, Id, Stake};
use crate::error::Result;

/// What a call asks, rule by rule, and of whom.
#[derive(Default)]
pub struct Asked<'a> {
    pub requests: SmallVec<[Request<'a>; 4]>,
    pub(super) of: SmallVec<[Of<'a>; 4]>,
    /// Of whom a slot is asked as well.
    pub(super) slots: SmallVec<[(&'a Definition, &'a [u8]); 1]>,
    /// Of whom slots are all there is to tell, and none is asked.
    pub(super) shown: Option<(&'a Definition, &'a [u8])>,
    /// The first answer of who is shut out, which is nobody's but the verdict's.
    shut_out: Option<Decision>,
    /// Whether all that is taken has to be remembered, for as long as the call may be interrupted.
    pub(super) waits: bool,
}

/// Whom a request is for: a limiter, one of its rules, and a key.
pub type Of<'a> = (&'a Definition, &'a Rc<DefinedRule>, &'a [u8]);

impl<'a> Asked<'a> {
    /// What one call for one key asks: nothing of a key that passes anyhow.
    pub fn new(
        limiter: &'a Definition,
        verdict: &'a Verdict,
        key: &'a [u8],
        cost: u64,
    ) -> Result<Self> {
        let requests = limiter.requests(verdict.rules(limiter), key, cost)?;
        if let Verdict::Passes = verdict {
            return Ok(Asked::default());
        }
        let of = verdict.rules(limiter).map(|rule| (limiter, rule, key)).collect();
        let bounded = limiter.max_concurrent().map(|_| (limiter, key));
        let slots = bounded.filter(|_| cost > 0).into_iter().collect();
        let shown = bounded.filter(|_| cost == 0 && limiter.rules().is_empty());
        Ok(Asked { requests, of, slots, shown, shut_out: verdict.shut_out(), waits: false })
    }

    /// The answer, where rates and slots have nothing to say.
    pub fn settled(&self) -> Option<Decision> {
        let is_nothing = self.requests.is_empty() && self.slots.is_empty() && self.shown.is_none();
        self.shut_out.or_else(|| is_nothing.then(Decision::unlimited))
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

    /// Of whom a request is asked.
    pub fn whom(&self, request: usize) -> Option<(&'a Definition, &'a [u8])> {
        self.of.get(request).map(|(limiter, _, key)| (*limiter, *key))
    }

    /// The key as the tables know it.
    pub(super) fn digest(&self, n: usize) -> Id {
        let (definition, rule, key) = self.of[n];
        definition.digest(key, rule)
    }

    pub(super) fn stake(&self, n: usize) -> Stake {
        self.of[n].1.stake
    }

    pub(super) fn is_remembered(&self, n: usize) -> bool {
        self.waits || self.stake(n) != Stake::Keep
    }

    /// Whether nothing that is asked needs to be remembered.
    pub(super) fn is_kept(&self) -> bool {
        (0..self.of.len()).all(|n| !self.is_remembered(n))
    }

    pub(super) fn durable(&self) -> impl Iterator<Item = usize> + use<> {
        let durable: SmallVec<[usize; 4]> =
            (0..self.of.len()).filter(|n| self.stake(*n) == Stake::Durable).collect();
        durable.into_iter()
    }
}
