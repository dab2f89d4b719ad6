//! The answer to a call.

use crate::time::Micros;

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The rate is used up; waiting helps.
    Rate,
    /// It can never pass: the cost is above the capacity, or the quota is 0.
    Never,
    /// All slots of the key are taken. Nobody knows for how long.
    Concurrency,
    /// The key is banned.
    Ban,
    /// The key is on the list of those that are always refused.
    DenyList,
}

impl Reason {
    /// The word that SQL shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Rate => "rate",
            Reason::Never => "never",
            Reason::Concurrency => "concurrency",
            Reason::Ban => "ban",
            Reason::DenyList => "deny_list",
        }
    }
}

/// The whole answer, as section 1.1 of the contract defines its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call passes.
    pub allowed: bool,
    /// What `remaining` counts down from.
    pub quota: u64,
    /// The largest cost that would pass now.
    pub remaining: u64,
    /// 0 when allowed, the exact wait when refused, `None` when no wait helps.
    pub retry_after: Option<Micros>,
    /// How long until the key is as good as new.
    pub reset_after: Micros,
    /// `None` when allowed.
    pub reason: Option<Reason>,
    /// Which of several limits binds, counted from 0.
    pub binding: usize,
}

/// The short answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// Whether the call passes.
    pub allowed: bool,
    /// Whether it took something, and left less than a fifth of the quota.
    pub near_limit: bool,
}

impl Brief {
    /// A refusal.
    pub const REFUSED: Brief = Brief { allowed: false, near_limit: false };
    /// A yes, with enough left.
    pub const ALLOWED: Brief = Brief { allowed: true, near_limit: false };
}

/// The part of a quota that is little: less than a fifth is less than so much.
#[inline(always)]
pub(crate) fn fifth(quota: u64) -> u64 {
    quota.div_ceil(5)
}

impl Decision {
    /// The short answer to who asked for `cost`.
    pub fn brief(&self, cost: u64) -> Brief {
        let takes = self.allowed && cost > 0 && self.quota != u64::MAX;
        Brief { allowed: self.allowed, near_limit: takes && self.remaining < fifth(self.quota) }
    }

    /// The answer where nothing limits.
    pub const fn unlimited() -> Self {
        Decision {
            allowed: true,
            quota: u64::MAX,
            remaining: u64::MAX,
            retry_after: Some(0),
            reset_after: 0,
            reason: None,
            binding: 0,
        }
    }

    /// The answer for a key that is shut out for so long, or for ever, whatever it has used.
    pub fn shut_out(reason: Reason, quota: u64, wait: Option<Micros>) -> Self {
        Decision {
            allowed: false,
            quota,
            remaining: 0,
            retry_after: wait,
            reset_after: wait.unwrap_or(Micros::MAX),
            reason: Some(reason),
            binding: 0,
        }
    }

    /// The answer of two limits that must both pass: the one that binds, the first of equals.
    pub fn and(self, other: Decision) -> Decision {
        // No wait is the longest wait.
        let wait = |decision: &Decision| decision.retry_after.unwrap_or(Micros::MAX);
        let first = match (self.allowed, other.allowed) {
            (true, true) => self.remaining <= other.remaining && self.quota != u64::MAX,
            (false, false) => {
                self.retry_after.is_none()
                    || other.retry_after.is_some() && wait(&self) >= wait(&other)
            }
            (first_allowed, _) => !first_allowed,
        };
        let reset_after = self.reset_after.max(other.reset_after);
        Decision { reset_after, ..if first { self } else { other } }
    }
}
