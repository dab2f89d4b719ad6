//! How a rule is defined: what can be said, and what contradicts itself.

use crate::period::Period;
use crate::time::{Micros, DAY};

/// The largest quota and burst.
pub const MAX_QUOTA: u64 = 1_000_000_000_000;
/// The longest period: 1000 years, with their leap days.
pub const MAX_PERIOD: Micros = 366_000 * DAY;

/// The largest quota of a log: it bounds what one key can take of a shared table, and how long a decision can take.
pub const MAX_LOG: u64 = 1_000;

/// How a rule counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// A bucket that refills.
    #[default]
    TokenBucket,
    /// A count in each window.
    FixedWindow,
    /// Two counts, the last one fading.
    SlidingWindow,
    /// Every single time.
    SlidingLog,
}

impl Algorithm {
    /// All of them, with their SQL names.
    pub const NAMES: [(&'static str, Algorithm); 4] = [
        ("token_bucket", Algorithm::TokenBucket),
        ("fixed_window", Algorithm::FixedWindow),
        ("sliding_window", Algorithm::SlidingWindow),
        ("sliding_log", Algorithm::SlidingLog),
    ];

    /// The algorithm that SQL calls so.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, algorithm)| *algorithm)
    }

    /// What SQL calls it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, algorithm)| *algorithm == self).map_or("", |(name, _)| name)
    }
}

/// How a bucket refills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refill {
    /// All the time.
    #[default]
    Continuous,
    /// A whole quota at the end of each period.
    Interval,
}

/// What is wrong with a rule. [`core::fmt::Display`] says it in a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// Quota above [`MAX_QUOTA`].
    Quota,
    /// Burst 0 or above [`MAX_QUOTA`].
    Burst,
    /// A burst where nothing is ever refilled.
    BurstWithoutQuota,
    /// A burst with an algorithm that has none.
    BurstWithWindow,
    /// A way of refilling with an algorithm that has none.
    RefillWithWindow,
    /// An anchor with an algorithm that has none.
    AnchorWithoutWindow,
    /// A time zone with an algorithm that has none.
    TimeZoneWithoutWindow,
    /// Shorter than a millisecond.
    PeriodTooShort,
    /// Longer than [`MAX_PERIOD`].
    PeriodTooLong,
    /// Months with an algorithm other than `fixed_window`.
    Months,
    /// A log longer than [`MAX_LOG`].
    Log,
    /// Two rules that cannot both be meant.
    Contradiction,
}

impl core::fmt::Display for RuleError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            RuleError::Quota => "A quota is a number from 0 to 1000000000000.",
            RuleError::Burst => "A burst is a number from 1 to 1000000000000.",
            RuleError::BurstWithoutQuota => "A quota of 0 refills nothing, so it can have no burst.",
            RuleError::BurstWithWindow => "Only token_bucket has a burst.",
            RuleError::RefillWithWindow => "Only token_bucket has a refill.",
            RuleError::AnchorWithoutWindow => "Only fixed_window has an anchor.",
            RuleError::TimeZoneWithoutWindow => "Only fixed_window has a time zone.",
            RuleError::PeriodTooShort => "A period is at least 1 millisecond.",
            RuleError::PeriodTooLong => "A period is at most 1000 years.",
            RuleError::Months => "Months and years have no fixed length: only fixed_window can count in them.",
            RuleError::Log => "A sliding_log keeps one time per unit of its quota, at most 1000; use sliding_window for more.",
            RuleError::Contradiction => {
                "Two rules with the same algorithm and the same period have different quotas or bursts."
            }
        })
    }
}

/// When a window begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anchor {
    /// With the clock, the same for all keys.
    #[default]
    Clock,
    /// With the key's first hit after the last window ended.
    FirstHit,
}

/// A rule as it was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSpec {
    /// How it counts.
    pub algorithm: Algorithm,
    /// How much in a period.
    pub quota: u64,
    /// How long a period is.
    pub period: Period,
    /// What a bucket holds; the quota, where nothing is said.
    pub burst: Option<u64>,
    /// How a bucket refills.
    pub refill: Refill,
    /// When a window begins.
    pub anchor: Anchor,
}

impl RateSpec {
    /// How much passes at once: the burst of a bucket, the quota of the others.
    pub fn capacity(&self) -> u64 {
        self.burst.unwrap_or(self.quota)
    }
}

/// Refuses rules that cannot both be meant: the same algorithm and period with different quotas.
pub fn check_together(specs: &[RateSpec]) -> Result<(), RuleError> {
    for (n, one) in specs.iter().enumerate() {
        for other in specs.iter().take(n) {
            let same = one.algorithm == other.algorithm && one.period == other.period;
            if same && (one.quota, one.capacity()) != (other.quota, other.capacity()) {
                return Err(RuleError::Contradiction);
            }
        }
    }
    Ok(())
}
