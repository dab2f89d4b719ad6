//! Moments as text: `2026-08-01T00:00:00Z`, as RFC 3339 and PostgreSQL's jsonb have them.

use ratelimit_core::calendar::{first_of_month, month_of};
use ratelimit_core::{Micros, DAY, HOUR, MINUTE, SECOND};
use serde::{de, ser, Deserialize};

/// A moment, in microseconds from 2000-01-01 00:00 UTC, as PostgreSQL has it: its last year has no number that counts from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Micros);

impl Moment {
    /// What PostgreSQL calls infinity.
    pub const NEVER: Moment = Moment(i64::MAX);

    /// Reads a moment. It says how far its clock is from UTC, so that it means the same everywhere.
    ///
    /// # Errors
    /// Sentences that say what is wrong with it.
    pub fn parse(text: &str) -> Result<Moment, String> {
        if text == "infinity" {
            return Ok(Moment::NEVER);
        }
        moment(text).ok_or_else(|| {
            let text = crate::document::shown(text);
            format!(
                "\"{text}\" is no time. Write it as \"2026-08-01T12:00:00Z\", with Z or an offset."
            )
        })
    }
}

/// That of PostgreSQL.
const LAST_YEAR: i64 = 294_276;

/// Days from 1970 to 2000.
const EPOCH: i64 = 10_957;

/// `YYYY-MM-DDTHH:MM[:SS[.ffffff]](Z|+HH[:MM])`
fn moment(text: &str) -> Option<Moment> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let offset = rest.find(['Z', 'z', '+', '-'])?;
    let (time, offset) = rest.split_at_checked(offset)?;
    let [year, month, day] = parts(date, '-')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = parts(time, ':').or_else(|| {
        let [hour, minute] = parts(time, ':')?;
        Some([hour, minute, 0])
    })?;
    let fraction_digits = u32::try_from(fraction.len()).ok().filter(|n| (1..=6).contains(n))?;
    let fraction = number(fraction)? * 10_i64.pow(6 - fraction_digits);

    let month = (year - 1970) * 12 + month.checked_sub(1).filter(|m| (0..12).contains(m))?;
    let first = first_of_month(month);
    let days = first_of_month(month + 1) - first;
    let fits = (1..=LAST_YEAR).contains(&year)
        && (1..=days).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let time = hour * HOUR + minute * MINUTE + second * SECOND + fraction;
    let days = first + day - 1 - EPOCH;
    let end = (first_of_month((LAST_YEAR + 1 - 1970) * 12) - EPOCH) * DAY;
    fits.then(|| Some(days * DAY + time - self::offset(offset)?))?
        .filter(|moment| *moment < end)
        .map(Moment)
}

/// `Z`, `+HH` or `+HH:MM`, in microseconds.
fn offset(text: &str) -> Option<Micros> {
    let ahead = match text.split_at_checked(1)? {
        ("Z" | "z", "") => return Some(0),
        (sign @ ("+" | "-"), time) => {
            let [hour, minute] = parts(time, ':').or_else(|| Some([number(time)?, 0]))?;
            let fits = hour < 24 && minute < 60;
            fits.then_some((hour * HOUR + minute * MINUTE) * if sign == "-" { -1 } else { 1 })
        }
        _ => None,
    };
    ahead
}

/// So many numbers.
fn parts<const N: usize>(text: &str, between: char) -> Option<[i64; N]> {
    let numbers: Option<Vec<_>> = text.split(between).map(number).collect();
    numbers?.try_into().ok()
}

/// Up to six digits.
fn number(text: &str) -> Option<i64> {
    let digits = (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == Moment::NEVER {
            return f.write_str("infinity");
        }
        let (day, time) = (self.0.div_euclid(DAY) + EPOCH, self.0.rem_euclid(DAY));
        let (month, day) = month_of(day);
        let (year, month, day) = (1970 + month.div_euclid(12), month.rem_euclid(12) + 1, day + 1);
        let (hour, minute, second) = (time / HOUR, time / MINUTE % 60, time / SECOND % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match time % SECOND {
            0 => f.write_str("Z"),
            fraction => write!(f, ".{}Z", format!("{fraction:06}").trim_end_matches('0')),
        }
    }
}

impl ser::Serialize for Moment {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A column that may be null, where the infinite future says the same.
pub fn unless_never<'de, D: de::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Moment>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let moment = Moment::parse(&text).map_err(de::Error::custom)?;
    Ok(Some(moment).filter(|moment| *moment != Moment::NEVER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_are_read_with_their_offset() {
        for (text, utc) in [
            ("1970-01-01T00:00:00Z", Some("1970-01-01T00:00:00Z")),
            ("2024-02-29 23:59:59.5+00", Some("2024-02-29T23:59:59.5Z")),
            ("2024-03-01T01:30+02:00", Some("2024-02-29T23:30:00Z")),
            ("2024-02-29T23:30:00-02:30", Some("2024-03-01T02:00:00Z")),
            ("12024-01-01T00:00:00+00:00", Some("12024-01-01T00:00:00Z")),
            ("294276-12-31T23:59:59.999999Z", Some("294276-12-31T23:59:59.999999Z")),
            ("294276-12-31T23:59:59-01", None),
            ("294277-01-01T00:00:00Z", None),
            ("infinity", Some("infinity")),
            ("2024-02-30T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-00-01T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01T00:60:00Z", None),
            ("2024-01-01T00:00:00", None),
            ("2024-01-01", None),
            ("2024-01-01T00:00:00Z ", None),
            ("2024-01-01T00:00:00+99:00", None),
            ("2024-01-01T00:00:00.1234567Z", None),
            ("0000-01-01T00:00:00Z", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(Moment::parse(text).ok().map(|m| m.to_string()).as_deref(), utc, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(micros in -63_000_000_000_000_000_i64..9_223_371_331_200_000_000) {
            let moment = Moment(micros);
            prop_assert_eq!(Moment::parse(&moment.to_string()), Ok(moment));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+.:0-9TZ]{0,30}|.*") {
            if let Ok(moment) = Moment::parse(&text) {
                prop_assert_eq!(Moment::parse(&moment.to_string()), Ok(moment));
            }
        }
    }
}
