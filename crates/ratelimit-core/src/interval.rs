//! A length of time in the parts that PostgreSQL's `interval` has, and the periods it can stand for.

use crate::period::Period;
use crate::spec::Algorithm;
use crate::time::{Micros, DAY};

/// Months, days and a time, each with its own sign: a day is not always 24 hours, a month not always 30 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Calendar months.
    pub months: i32,
    /// Calendar days.
    pub days: i32,
    /// Microseconds.
    pub time: Micros,
}

const NEGATIVE: &str = "A period must be positive.";
const ENDLESS: &str = "A period of 0 has no end.";

impl Interval {
    /// The period that a rule counts in: only windows know a calendar, for the others a day has 24 hours. Whole weeks begin on
    /// Mondays, unless they are to be counted as days from the epoch.
    ///
    /// # Errors
    /// A sentence that says why there is no such period.
    pub fn period_of(
        self,
        algorithm: Algorithm,
        weeks_are_days: bool,
    ) -> Result<Period, &'static str> {
        match (algorithm, self.period(weeks_are_days)?) {
            (Algorithm::FixedWindow, period) | (_, period @ Period::Months(_)) => Ok(period),
            _ => self.span().map(Period::Span),
        }
    }

    /// A period with one unit.
    fn period(self, weeks_are_days: bool) -> Result<Period, &'static str> {
        let positive = |n: i32| u32::try_from(n).ok().filter(|n| *n > 0);
        match (self.time, self.days, self.months) {
            (time, 0, 0) if time > 0 => Ok(Period::Span(time)),
            (0, days, 0) if days > 0 => Ok(match positive(days) {
                Some(days) if days.is_multiple_of(7) && !weeks_are_days => Period::Weeks(days / 7),
                days => Period::Days(days.unwrap_or(1)),
            }),
            (0, 0, months) if months > 0 => Ok(Period::Months(positive(months).unwrap_or(1))),
            (time, days, months) if time < 0 || days < 0 || months < 0 => Err(NEGATIVE),
            (0, 0, 0) => Err(ENDLESS),
            _ => Err("A period is given in one unit: a time, days or months."),
        }
    }

    /// A period of a fixed length, with days of 24 hours.
    ///
    /// # Errors
    /// A sentence that says why there is no such period.
    pub fn span(self) -> Result<Micros, &'static str> {
        if self.months != 0 {
            return Err("Months and years have no fixed length.");
        }
        let days = i64::from(self.days).checked_mul(DAY);
        match days.and_then(|days| days.checked_add(self.time)) {
            Some(span) if span > 0 => Ok(span),
            Some(0) => Err(ENDLESS),
            _ => Err(NEGATIVE),
        }
    }

    /// The length in microseconds by which PostgreSQL compares intervals: a day has 24 hours, a month 30 days.
    pub fn length(self) -> i128 {
        let days = i128::from(self.months) * 30 + i128::from(self.days);
        days * i128::from(DAY) + i128::from(self.time)
    }
}

impl From<Period> for Interval {
    fn from(period: Period) -> Self {
        let whole = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let (months, days, time) = match period {
            Period::Span(span) => (0, 0, span),
            Period::Days(n) => (0, whole(n), 0),
            Period::Weeks(n) => (0, whole(n.saturating_mul(7)), 0),
            Period::Months(n) => (whole(n), 0, 0),
        };
        Interval { months, days, time }
    }
}
