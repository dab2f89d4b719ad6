//! One rule of a limiter: its definition, checked, and what every algorithm can be asked.

use alloc::rc::Rc;

use crate::calendar::{Calendar, Utc};
use crate::fixed_window::{Anchor, FixedWindow};
use crate::period::Period;
use crate::rate::RateSpec;
use crate::sliding_log::{SlidingLog, MAX_LOG};
use crate::sliding_window::SlidingWindow;
use crate::state::State;
use crate::time::{Micros, Now, DAY, MILLISECOND};
use crate::token_bucket::{IntervalBucket, TokenBucket};

/// The largest quota and burst.
pub const MAX_QUOTA: u64 = 1_000_000_000_000;
/// The longest period: 1000 years, with their leap days.
pub const MAX_PERIOD: Micros = 366_000 * DAY;

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
            RuleError::PeriodTooShort => "A period is at least 1 millisecond.",
            RuleError::PeriodTooLong => "A period is at most 1000 years.",
            RuleError::Months => "Months and years have no fixed length: only fixed_window can count in them.",
            RuleError::Log => "A sliding_log keeps one time per unit of its quota, and at most 1000.",
            RuleError::Contradiction => {
                "Two rules with the same algorithm and the same period have different quotas or bursts."
            }
        })
    }
}

/// A rule that can decide.
#[derive(Clone, Debug)]
pub enum Rule {
    /// `token_bucket`, refilled all the time.
    TokenBucket(TokenBucket),
    /// `token_bucket`, refilled by whole quotas.
    IntervalBucket(IntervalBucket),
    /// `fixed_window`.
    FixedWindow(FixedWindow),
    /// `sliding_window`.
    SlidingWindow(SlidingWindow),
    /// `sliding_log`.
    SlidingLog(SlidingLog),
}

impl Rule {
    /// Checks a definition; days and longer follow `calendar` where windows do.
    pub fn new(spec: &RateSpec, calendar: Rc<dyn Calendar>) -> Result<Rule, RuleError> {
        let RateSpec { algorithm, quota, period, burst, refill, anchor } = *spec;
        let bucket = algorithm == Algorithm::TokenBucket;
        if quota > MAX_QUOTA {
            return Err(RuleError::Quota);
        }
        if let Some(burst) = burst {
            if burst == 0 || burst > MAX_QUOTA {
                return Err(RuleError::Burst);
            }
            if !bucket {
                return Err(RuleError::BurstWithWindow);
            }
            if quota == 0 {
                return Err(RuleError::BurstWithoutQuota);
            }
        }
        if refill != Refill::Continuous && !bucket {
            return Err(RuleError::RefillWithWindow);
        }
        if anchor != Anchor::Clock && algorithm != Algorithm::FixedWindow {
            return Err(RuleError::AnchorWithoutWindow);
        }
        if period.longest() < MILLISECOND {
            return Err(RuleError::PeriodTooShort);
        }
        let too_long = match period {
            Period::Months(n) => n > 12_000,
            other => other.longest() > MAX_PERIOD,
        };
        if too_long {
            return Err(RuleError::PeriodTooLong);
        }
        if algorithm == Algorithm::FixedWindow {
            return Ok(Rule::FixedWindow(FixedWindow::new(quota, period, anchor, calendar)));
        }
        let span = period.span().ok_or(RuleError::Months)?;
        Ok(match (algorithm, refill) {
            (Algorithm::SlidingWindow, _) => Rule::SlidingWindow(SlidingWindow::new(quota, span)),
            (Algorithm::SlidingLog, _) if quota > MAX_LOG => return Err(RuleError::Log),
            (Algorithm::SlidingLog, _) => Rule::SlidingLog(SlidingLog::new(quota, span)),
            (_, Refill::Interval) => {
                Rule::IntervalBucket(IntervalBucket::new(quota, span, burst.unwrap_or(quota)))
            }
            _ => Rule::TokenBucket(TokenBucket::new(quota, span, burst.unwrap_or(quota))),
        })
    }

    /// The largest cost that can ever pass.
    pub fn capacity(&self) -> u64 {
        with_meter!(self, meter => meter.capacity())
    }

    /// A number for the meaning of the state's words: a key whose algorithm changed starts afresh. Never 0.
    pub fn kind(&self) -> u8 {
        match self {
            Rule::TokenBucket(_) => 1,
            Rule::IntervalBucket(_) => 2,
            Rule::FixedWindow(_) => 3,
            Rule::SlidingWindow(_) => 4,
            Rule::SlidingLog(_) => LOG_KIND,
        }
    }
}

impl RateSpec {
    /// The rule, with windows of days and longer in UTC.
    pub fn rule(&self) -> Result<Rule, RuleError> {
        Rule::new(self, Rc::new(Utc))
    }

    /// How much passes at once: the burst of a bucket, the quota of the others.
    pub fn capacity(&self) -> u64 {
        self.burst.unwrap_or(self.quota)
    }
}

/// [`Rule::kind`] of a log.
pub(crate) const LOG_KIND: u8 = 5;

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

/// What every algorithm can be asked. A view is the state brought up to `now`, and in the terms of the current definition.
///
/// Costs are at most the capacity where a method decides; [`charge`](Meter::charge) may overdraw.
pub(crate) trait Meter {
    type View: Copy;

    /// The largest cost that can ever pass.
    fn capacity(&self) -> u64;
    /// Reads the state.
    fn view<S: State>(&self, state: &S, now: Now) -> Self::View;
    /// Writes it back.
    fn store<S: State>(&self, state: &mut S, view: &Self::View);
    /// Whether `cost` fits.
    fn admits<S: State>(&self, state: &S, view: &Self::View, cost: u64) -> bool;
    /// Takes `cost`, whether it fits or not.
    fn charge<S: State>(&self, state: &mut S, view: &mut Self::View, now: Now, cost: u64);
    /// Gives `cost` back, but never more than was taken.
    fn refund<S: State>(&self, state: &mut S, view: &mut Self::View, now: Now, cost: u64);
    /// The largest cost that fits.
    fn remaining<S: State>(&self, state: &S, view: &Self::View) -> u64;
    /// How long until nothing is used any more, if `cost` were taken now.
    fn reset_after<S: State>(&self, state: &S, view: &Self::View, now: Now, cost: u64) -> Micros;
    /// How long until `cost` fits, which it does not now.
    fn wait<S: State>(&self, state: &S, view: &Self::View, now: Now, cost: u64) -> Micros;
}

/// Runs an expression with the algorithm that a rule holds.
macro_rules! with_meter {
    ($rule:expr, $meter:ident => $body:expr) => {
        match $rule {
            $crate::rule::Rule::TokenBucket($meter) => $body,
            $crate::rule::Rule::IntervalBucket($meter) => $body,
            $crate::rule::Rule::FixedWindow($meter) => $body,
            $crate::rule::Rule::SlidingWindow($meter) => $body,
            $crate::rule::Rule::SlidingLog($meter) => $body,
        }
    };
}
pub(crate) use with_meter;
