//! A rule that can decide: a definition, checked, with its algorithm.

use alloc::rc::Rc;

use crate::calendar::{Calendar, Utc};
use crate::fixed_window::FixedWindow;
use crate::interval_bucket::IntervalBucket;
use crate::meter::Meter;
use crate::period::Period;
use crate::sliding_log::SlidingLog;
use crate::sliding_window::SlidingWindow;
use crate::spec::{Algorithm, Anchor, RateSpec, Refill, RuleError, MAX_LOG, MAX_PERIOD, MAX_QUOTA};
use crate::time::MILLISECOND;
use crate::token_bucket::TokenBucket;

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
}

/// [`Rule::kind`] of a log.
pub(crate) const LOG_KIND: u8 = 5;
/// What a table calls a ban, which no rule has for its kind.
pub(crate) const BAN_KIND: u8 = 7;

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
