//! How long a rule's period is: a fixed span, or a number of calendar units.

use crate::time::{Micros, DAY};

/// A period as it was written. The unit matters: `24 hours` is a span, `1 day` follows the calendar where windows do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Microseconds.
    Span(Micros),
    /// Calendar days.
    Days(u32),
    /// Calendar weeks, from Monday.
    Weeks(u32),
    /// Calendar months.
    Months(u32),
}

impl Period {
    /// The period as a span of 24-hour days, or the longest there is; `None` for months, which have no length of their own.
    pub fn span(self) -> Option<Micros> {
        match self {
            Period::Span(span) => Some(span),
            Period::Days(n) => Some(i64::from(n).saturating_mul(DAY)),
            Period::Weeks(n) => Some(i64::from(n).saturating_mul(7 * DAY)),
            Period::Months(_) => None,
        }
    }

    /// Whether it is whole weeks, counted as days from the epoch and not from Monday: `7 days`, not `1 week`.
    pub fn has_weeks_of_days(self) -> bool {
        matches!(self, Period::Days(n) if n.is_multiple_of(7))
    }

    /// The longest this period can be, in microseconds: for bounds and for comparing.
    pub fn longest(self) -> Micros {
        match self {
            // A day of 25 hours may be among them.
            Period::Months(n) => i64::from(n).saturating_mul(31 * DAY),
            other => other.span().unwrap_or(Micros::MAX),
        }
    }
}
