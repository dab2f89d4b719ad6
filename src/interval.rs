//! Between PostgreSQL's `interval` and our periods.

use pgrx::pg_sys;
use ratelimit_core::{Algorithm, Interval, Micros, Period};

use crate::error::{Error, Result};

/// An interval that a user gave.
#[derive(Clone, Copy)]
pub struct Parts(Interval);

impl Parts {
    /// # Safety
    /// `datum` is an interval.
    pub unsafe fn read(datum: pg_sys::Datum) -> Self {
        // SAFETY: an interval is passed by reference and plainly stored.
        let pg_sys::Interval { time, day, month } = unsafe { *datum.cast_mut_ptr() };
        Parts(Interval { months: month, days: day, time })
    }

    /// The period that a rule counts in.
    pub fn period_of(
        self,
        what: &str,
        algorithm: Algorithm,
        weeks_are_days: bool,
    ) -> Result<Period> {
        let period = self.0.period_of(algorithm, weeks_are_days);
        period.map_err(|detail| Error::period(what, detail))
    }

    /// A period of a fixed length, with days of 24 hours.
    pub fn span(self, what: &str) -> Result<Micros> {
        self.0.span().map_err(|detail| Error::period(what, detail))
    }

    /// How long to wait at most: with days of 24 hours and months of 30 days, as PostgreSQL compares intervals.
    pub fn wait(self) -> Micros {
        let sum = self.0.length();
        Micros::try_from(sum).unwrap_or(if sum < 0 { Micros::MIN } else { Micros::MAX })
    }
}

/// An interval datum of so many microseconds.
pub fn datum(span: Micros) -> pg_sys::Datum {
    make(Interval { months: 0, days: 0, time: span })
}

/// The period as an interval datum, and whether its weeks are days: `7 days`, not `1 week`.
pub fn period_datum(period: Period) -> (pg_sys::Datum, bool) {
    (make(period.into()), period.has_weeks_of_days())
}

fn make(Interval { months, days, time }: Interval) -> pg_sys::Datum {
    // SAFETY: palloc answers memory of this size, aligned for any type, or raises an error.
    unsafe {
        let interval = pg_sys::palloc(size_of::<pg_sys::Interval>()).cast::<pg_sys::Interval>();
        interval.write(pg_sys::Interval { time, day: days, month: months });
        pg_sys::Datum::from(interval)
    }
}
