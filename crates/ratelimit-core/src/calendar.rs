//! Windows that follow a calendar: where one begins and ends, in a time zone the host knows.
//!
//! Civil-date arithmetic after Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

use crate::period::Period;
use crate::time::{Micros, DAY};

/// A time zone. Local time is counted like UTC, in microseconds from 1970-01-01 00:00 on the local clock.
pub trait Calendar {
    /// What the local clock shows at `utc`.
    fn to_local(&self, utc: Micros) -> Micros;
    /// When the local clock shows `local`; of two such instants either, of none the moment of the jump.
    fn to_utc(&self, local: Micros) -> Micros;
}

/// Coordinated universal time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utc;

impl Calendar for Utc {
    fn to_local(&self, utc: Micros) -> Micros {
        utc
    }
    fn to_utc(&self, local: Micros) -> Micros {
        local
    }
}

/// Days from 1970-01-01 of the first day of a month counted from January 1970.
pub fn first_of_month(month: i64) -> i64 {
    let year = 1970 + month.div_euclid(12);
    let month = month.rem_euclid(12) + 1;
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The month, counted from January 1970, in which a day counted from 1970-01-01 lies, and its day from 0.
pub fn month_of(day: i64) -> (i64, i64) {
    let day_of_era = (day + 719_468).rem_euclid(146_097);
    let era = (day + 719_468).div_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let year = era * 400 + year_of_era + i64::from(shifted >= 10);
    let month = (year - 1970) * 12 + (shifted + 2) % 12;
    (month, day - first_of_month(month))
}

/// The local time at which the calendar window with this number begins.
fn boundary(period: Period, index: i64) -> Micros {
    let days = match period {
        Period::Span(_) => return 0,
        Period::Days(n) => index.saturating_mul(i64::from(n)),
        // 1970-01-05 was a Monday.
        Period::Weeks(n) => index.saturating_mul(7 * i64::from(n)).saturating_add(4),
        Period::Months(n) => first_of_month(index.saturating_mul(i64::from(n))),
    };
    days.saturating_mul(DAY)
}

/// The window around `now`: when it began and when it ends.
pub fn window(period: Period, now: Micros, calendar: &dyn Calendar) -> (Micros, Micros) {
    if let Period::Span(span) = period {
        let start = now.saturating_sub(now.rem_euclid(span));
        return (start, start.saturating_add(span));
    }
    let day = calendar.to_local(now).div_euclid(DAY);
    let mut index = match period {
        Period::Span(_) => 0,
        Period::Days(n) => day.div_euclid(i64::from(n)),
        Period::Weeks(n) => (day - 4).div_euclid(7 * i64::from(n)),
        Period::Months(n) => month_of(day).0.div_euclid(i64::from(n)),
    };
    let begin = |index| calendar.to_utc(boundary(period, index));
    // Where the local clock shows midnight twice, the date alone can be one window off.
    if begin(index) > now {
        index -= 1;
    } else if begin(index + 1) <= now {
        index += 1;
    }
    (begin(index), begin(index + 1))
}

/// One period after `start`, by the calendar: the same local time, in a shorter month its last day.
pub fn after(period: Period, start: Micros, calendar: &dyn Calendar) -> Micros {
    let local = calendar.to_local(start);
    let end = match period {
        Period::Span(span) => return start.saturating_add(span),
        Period::Months(n) => {
            let (month, day) = month_of(local.div_euclid(DAY));
            let target = month + i64::from(n);
            let length = first_of_month(target + 1) - first_of_month(target);
            (first_of_month(target) + day.min(length - 1))
                .saturating_mul(DAY)
                .saturating_add(local.rem_euclid(DAY))
        }
        days => local.saturating_add(days.longest()),
    };
    calendar.to_utc(end).max(start.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn months_begin_where_the_calendar_says() {
        assert_eq!(first_of_month(0), 0);
        assert_eq!(first_of_month(1), 31);
        assert_eq!(first_of_month(-1), -31);
        assert_eq!(first_of_month((2024 - 1970) * 12 + 2), 19_783); // 2024-03-01, after a leap day
    }

    proptest! {
        #[test]
        fn every_day_lies_in_its_month(day in -700_000i64..3_000_000) {
            let (month, offset) = month_of(day);
            prop_assert!(first_of_month(month) + offset == day);
            prop_assert!((0..31).contains(&offset));
            prop_assert!(day < first_of_month(month + 1));
        }
    }
}
