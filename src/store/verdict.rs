//! What is known of a key before its rates and slots are looked at: in this order, whether the limiter is on, what an override says, and
//! whether the key is banned.

use std::rc::Rc;

use ratelimit_core::lists::Listed;
use ratelimit_core::table::Key;
use ratelimit_core::{Decision, Micros, Reason};

use super::Store;
use crate::catalog::{DefinedRule, Definition, Mode, Stake};
use crate::config;
use crate::error::Result;
use crate::lists::{self, Action};

/// What is known of a key.
pub enum Verdict {
    /// Its rates and slots decide, with a first rule of its own if it has one.
    Limited(Option<Rc<DefinedRule>>),
    /// It passes, and nothing is counted.
    Passes,
    /// It is refused, whatever it has used.
    ShutOut(Decision, Option<Rc<DefinedRule>>),
}

impl Verdict {
    /// The rules that count for the key.
    pub fn rules<'a>(
        &'a self,
        limiter: &'a Definition,
    ) -> impl Iterator<Item = &'a Rc<DefinedRule>> {
        let own = match self {
            Verdict::Limited(own) | Verdict::ShutOut(_, own) => own.as_ref(),
            Verdict::Passes => None,
        };
        let first = own.or(limiter.rules().first());
        first.into_iter().chain(limiter.rules().iter().skip(1))
    }

    /// The answer to a key that is refused.
    pub fn shut_out(&self) -> Option<Decision> {
        match self {
            Verdict::ShutOut(decision, _) => Some(*decision),
            _ => None,
        }
    }

    /// The same for what is done to a key whether it may call or not.
    pub fn in_general(self) -> Self {
        match self {
            Verdict::Limited(own) | Verdict::ShutOut(_, own) => Verdict::Limited(own),
            Verdict::Passes => Verdict::Limited(None),
        }
    }
}

impl Store {
    /// Whether something may be known of a key but its limiter's definition. Most of the time the answer is no, and is found at once.
    #[inline(always)]
    pub(super) fn may_be_listed(&self, limiter: &Definition, key: Key) -> bool {
        match self.header.lists.look(limiter.lists.place, key) {
            Listed::No => false,
            Listed::NoRow => self.header.ban_filter.may_have(limiter.table_key(key)),
            Listed::Maybe => true,
            Listed::Unknown => self.may_be_unknown(limiter, key),
        }
    }

    /// The same where shared memory does not know.
    #[cold]
    fn may_be_unknown(&self, limiter: &Definition, key: Key) -> bool {
        limiter.lists.tables.is_some()
            && (limiter.lists.any
                || lists::is_told()
                || self.header.table().may_be_banned(limiter.table_key(key)))
    }

    /// What is known of a key.
    pub fn verdict(&self, limiter: &Definition, key: &[u8]) -> Result<Verdict> {
        if limiter.mode() == Mode::Off || !config::enabled() {
            return Ok(Verdict::Passes);
        }
        let listed = limiter.list_key(key);
        if self.may_be_listed(limiter, listed) {
            self.look_up(limiter, key, listed)
        } else {
            Ok(Verdict::Limited(None))
        }
    }

    #[cold]
    pub(super) fn look_up(&self, limiter: &Definition, text: &[u8], key: Key) -> Result<Verdict> {
        let row = lists::find(self.header, limiter, text, key)?.unwrap_or_default();
        // The wall as it is, for ends that somebody wrote down.
        let wall = || self.header.clock.stopped().wall;
        let has_ended = |ends| ends != Micros::MAX && ends <= wall();
        let mut own = None;
        match row.action {
            None => {}
            Some(_) if has_ended(row.action_ends) => {}
            Some(Action::Allow) => return Ok(Verdict::Passes),
            Some(Action::Deny) => {
                return Ok(shut_out(limiter, None, Reason::DenyList, row.action_ends, wall()));
            }
            Some(Action::Limit(rule)) => own = rule,
        }
        if let Some(ends) = row.ban_ends.filter(|ends| !has_ended(*ends)) {
            return Ok(shut_out(limiter, own, Reason::Ban, ends, wall()));
        }
        let (table, table_key) = (self.header.table(), limiter.table_key(key));
        if limiter.stake() != Stake::Durable && table.may_be_banned(table_key) {
            let now = self.header.clock.now().steady;
            if let Some(ends) = table.banned(table_key, now) {
                return Ok(shut_out(limiter, own, Reason::Ban, ends, now));
            }
        }
        Ok(Verdict::Limited(own))
    }
}

fn shut_out(
    limiter: &Definition,
    own: Option<Rc<DefinedRule>>,
    reason: Reason,
    ends: Micros,
    now: Micros,
) -> Verdict {
    let capacity = match own.as_ref().or(limiter.rules().first()) {
        Some(rule) => rule.rule.capacity(),
        None => limiter.max_concurrent().unwrap_or(0).into(),
    };
    let wait = (ends != Micros::MAX).then(|| ends.saturating_sub(now).max(1));
    Verdict::ShutOut(Decision::shut_out(reason, capacity, wait), own)
}
