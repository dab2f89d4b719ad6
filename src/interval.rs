//! Between PostgreSQL's `interval` and our periods.

use pgrx::pg_sys;
use ratelimit_core::{Micros, Period, DAY};

use crate::error::{Error, Result};

/// The parts of an interval: microseconds, days and months.
#[derive(Clone, Copy)]
pub struct Parts {
    time: i64,
    days: i32,
    months: i32,
}

impl Parts {
    /// # Safety
    /// `datum` is an interval.
    pub unsafe fn read(datum: pg_sys::Datum) -> Self {
        // SAFETY: an interval is passed by reference and plainly stored.
        let interval = unsafe { *datum.cast_mut_ptr::<pg_sys::Interval>() };
        Parts { time: interval.time, days: interval.day, months: interval.month }
    }

    /// A period with one unit. Whole weeks begin on Mondays, unless they are to be counted as days from the epoch.
    pub fn period(self, what: &str, weeks_are_days: bool) -> Result<Period> {
        let positive = |n: i32| u32::try_from(n).ok().filter(|n| *n > 0);
        match (self.time, self.days, self.months) {
            (time, 0, 0) if time > 0 => Ok(Period::Span(time)),
            (0, days, 0) if days > 0 => Ok(match positive(days) {
                Some(days) if days.is_multiple_of(7) && !weeks_are_days => Period::Weeks(days / 7),
                days => Period::Days(days.unwrap_or(1)),
            }),
            (0, 0, months) if months > 0 => Ok(Period::Months(positive(months).unwrap_or(1))),
            (time, days, months) if time < 0 || days < 0 || months < 0 => {
                Err(Error::period(what, "A period must be positive."))
            }
            (0, 0, 0) => Err(Error::period(what, "A period of 0 has no end.")),
            _ => Err(Error::period(what, "A period is given in one unit: a time, days or months.")),
        }
    }

    /// A period of a fixed length, with days of 24 hours.
    pub fn span(self, what: &str) -> Result<Micros> {
        if self.months != 0 {
            return Err(Error::period(what, "Months and years have no fixed length."));
        }
        let span =
            i64::from(self.days).checked_mul(DAY).and_then(|days| days.checked_add(self.time));
        match span {
            Some(span) if span > 0 => Ok(span),
            Some(0) => Err(Error::period(what, "A period of 0 has no end.")),
            _ => Err(Error::period(what, "A period must be positive.")),
        }
    }

    /// How long to wait at most: with days of 24 hours and months of 30 days, as PostgreSQL compares intervals.
    pub fn wait(self) -> Micros {
        const MONTH: i128 = 30 * DAY as i128;
        let sum = i128::from(self.time)
            + i128::from(self.days) * i128::from(DAY)
            + i128::from(self.months) * MONTH;
        Micros::try_from(sum).unwrap_or(if sum < 0 { Micros::MIN } else { Micros::MAX })
    }
}

/// An interval datum of so many microseconds.
pub fn datum(span: Micros) -> pg_sys::Datum {
    make(span, 0, 0)
}

/// The period as an interval datum, and whether its weeks are days: `7 days`, not `1 week`.
pub fn period_datum(period: Period) -> (pg_sys::Datum, bool) {
    let int = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    match period {
        Period::Span(span) => (make(span, 0, 0), false),
        Period::Days(n) => (make(0, int(n), 0), n.is_multiple_of(7)),
        Period::Weeks(n) => (make(0, int(n.saturating_mul(7)), 0), false),
        Period::Months(n) => (make(0, 0, int(n)), false),
    }
}

fn make(time: i64, day: i32, month: i32) -> pg_sys::Datum {
    // SAFETY: palloc answers memory of this size, aligned for any type, or raises an error.
    unsafe {
        let interval = pg_sys::palloc(size_of::<pg_sys::Interval>()).cast::<pg_sys::Interval>();
        interval.write(pg_sys::Interval { time, day, month });
        pg_sys::Datum::from(interval)
    }
}
