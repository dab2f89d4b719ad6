//! Counting what was decided, for statistics.

use ratelimit_core::table::{rule_key, Key};
use ratelimit_core::{Brief, Decision, Now, Reason};

use super::{Asked, Store};
use crate::catalog::{Definition, Mode};

impl Store {
    /// Counts a decision on one call. One that is off decides nothing.
    pub fn count(&self, limiter: &Definition, text: &[u8], brief: Brief) {
        self.count_keyed(limiter, limiter.list_key(text), text, brief);
    }

    /// The same where only a yes or no is known.
    pub fn count_answer(&self, limiter: &Definition, text: &[u8], allowed: bool) {
        self.count(limiter, text, if allowed { Brief::ALLOWED } else { Brief::REFUSED });
    }

    /// The same for a call that was ready to wait for its turn.
    pub(super) fn count_turn(
        &self,
        limiter: &Definition,
        text: &[u8],
        cost: u64,
        decision: &Decision,
    ) {
        self.count(limiter, text, decision.brief(cost));
        // What never fits has no turn.
        if !decision.allowed && decision.reason == Some(Reason::Rate) {
            limiter.stats().timed_out();
        }
    }

    /// The same for what was asked, where the key need not be hashed again.
    pub(super) fn count_asked(
        &self,
        asked: &Asked<'_>,
        limiter: &Definition,
        text: &[u8],
        brief: Brief,
    ) {
        let key = match (asked.requests.first(), asked.of.first()) {
            // What was mixed into the key is so mixed out of it.
            (Some(request), Some((_, rule, _))) => {
                limiter.table_key(rule_key(request.key, rule.position))
            }
            _ => limiter.list_key(text),
        };
        self.count_keyed(limiter, key, text, brief);
    }

    fn count_keyed(&self, limiter: &Definition, key: Key, text: &[u8], brief: Brief) {
        let wall = || self.header.clock.read().wall;
        match limiter.mode() {
            Mode::Off => {}
            _ if brief.allowed => count_allowed(limiter, key, brief),
            Mode::Enforce => limiter.stats().denied(key, text, wall()),
            Mode::Shadow => limiter.stats().shadow_denied(key, text, wall()),
        }
    }
}

/// The same for the plain way: a limiter that enforces one rule.
#[inline(always)]
pub fn count_plain(limiter: &Definition, key: Key, text: &[u8], brief: Brief, now: Now) {
    if brief.allowed {
        count_allowed(limiter, key, brief);
    } else {
        limiter.stats().denied(key, text, now.wall);
    }
}

#[inline(always)]
fn count_allowed(limiter: &Definition, key: Key, brief: Brief) {
    limiter.stats().allowed(key);
    if brief.near_limit {
        limiter.stats().near_limit();
    }
}
