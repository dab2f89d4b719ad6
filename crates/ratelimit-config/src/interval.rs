//! Intervals as text: `30 s`, `1 minute`, `1 month 2 days 03:00:00`.
//!
//! What is read is what PostgreSQL writes in its own style, and what people write by units; what is written, PostgreSQL reads.

use ratelimit_core::{Interval, DAY, HOUR, MILLISECOND, MINUTE, SECOND};
use serde::{de, ser};

/// An interval as a column of the tables has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text(pub Interval);

/// What PostgreSQL 17 calls infinity.
pub const INFINITY: Interval = Interval { months: i32::MAX, days: i32::MAX, time: i64::MAX };

const FORM: &str = "Write it as \"30 seconds\" or \"1 day 12 hours\".";

/// Reads an interval.
///
/// # Errors
/// Sentences that say what is wrong with it.
pub fn parse(text: &str) -> Result<Interval, String> {
    if text.trim().eq_ignore_ascii_case("infinity") {
        return Ok(INFINITY);
    }
    sum(text).ok_or_else(|| format!("{:?} is no interval. {FORM}", crate::document::shown(text)))
}

fn sum(text: &str) -> Option<Interval> {
    let mut words = words(text).into_iter().peekable();
    let (mut months, mut days, mut time) = (0_i64, 0_i64, 0_i64);
    words.peek()?;
    while let Some(number) = words.next() {
        if number.contains(':') {
            time = time.checked_add(clock(number)?)?;
            continue;
        }
        let unit = words.next()?.to_ascii_lowercase();
        let (part, factor) = match unit.as_str() {
            "y" | "year" | "years" => (&mut months, 12),
            "mon" | "mons" | "month" | "months" => (&mut months, 1),
            "w" | "week" | "weeks" => (&mut days, 7),
            "d" | "day" | "days" => (&mut days, 1),
            "h" | "hour" | "hours" => (&mut time, HOUR),
            "m" | "min" | "mins" | "minute" | "minutes" => (&mut time, MINUTE),
            "s" | "sec" | "secs" | "second" | "seconds" => {
                time = time.checked_add(seconds(number)?)?;
                continue;
            }
            "ms" | "millisecond" | "milliseconds" => (&mut time, MILLISECOND),
            "us" | "microsecond" | "microseconds" => (&mut time, 1),
            _ => return None,
        };
        *part = part.checked_add(number.parse::<i64>().ok()?.checked_mul(factor)?)?;
    }
    Some(Interval { months: months.try_into().ok()?, days: days.try_into().ok()?, time })
}

/// Numbers, with their signs, points and colons, and the words between them.
fn words(text: &str) -> Vec<&str> {
    let is_number = |c: char| c.is_ascii_digit() || "+-.:".contains(c);
    let mut words = Vec::new();
    for part in text.split_whitespace() {
        let unit = part.find(|c| !is_number(c)).unwrap_or(part.len());
        let (number, unit) = part.split_at(unit);
        words.extend([number, unit].into_iter().filter(|word| !word.is_empty()));
    }
    words
}

/// `[-]HH:MM[:SS[.ffffff]]`
fn clock(text: &str) -> Option<i64> {
    let (sign, text) = signed(text);
    let mut parts = text.split(':');
    let (hours, minutes) = (whole(parts.next()?)?, whole(parts.next()?)?);
    let seconds = parts.next().map_or(Some(0), seconds)?;
    if parts.next().is_some() || minutes >= 60 || !(0..MINUTE).contains(&seconds) {
        return None;
    }
    hours.checked_mul(HOUR)?.checked_add(minutes * MINUTE)?.checked_add(seconds)?.checked_mul(sign)
}

/// `[-]SS[.ffffff]`
fn seconds(text: &str) -> Option<i64> {
    let (sign, text) = signed(text);
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 6 {
        return None;
    }
    let fraction = whole(fraction)? * 10_i64.pow(6 - u32::try_from(fraction.len()).ok()?);
    whole(seconds)?.checked_mul(SECOND)?.checked_add(fraction)?.checked_mul(sign)
}

fn signed(text: &str) -> (i64, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Digits only.
fn whole(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Writes an interval in its largest units.
pub fn print(interval: Interval) -> String {
    if interval == INFINITY {
        return "infinity".to_owned();
    }
    let units = [("hour", HOUR), ("minute", MINUTE), ("second", SECOND), ("ms", MILLISECOND)];
    let Interval { months, days, time } = interval;
    let mut parts = Vec::new();
    let mut part = |many: i64, unit: &str| match many {
        0 => {}
        1 | -1 => parts.push(format!("{many} {unit}")),
        _ if unit.len() == 2 => parts.push(format!("{many} {unit}")),
        _ => parts.push(format!("{many} {unit}s")),
    };
    match months % 12 {
        0 => part((months / 12).into(), "year"),
        _ => part(months.into(), "month"),
    }
    part(days.into(), "day");
    let (name, unit) = units.into_iter().find(|(_, unit)| time % unit == 0).unwrap_or(("us", 1));
    part(time / unit, name);
    if parts.is_empty() {
        parts.push("0 seconds".to_owned());
    }
    parts.join(" ")
}

/// Days of 24 hours as days, where that says the same.
pub fn in_days(interval: Interval) -> Interval {
    match (i32::try_from(interval.time / DAY), interval.time % DAY) {
        (Ok(days), 0) if interval.days == 0 => Interval { days, time: 0, ..interval },
        _ => interval,
    }
}

impl ser::Serialize for Text {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&print(self.0))
    }
}

impl<'de> de::Deserialize<'de> for Text {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn intervals_are_read_as_postgresql_writes_them_and_as_people_do() {
        let of = |months, days, time| Some(Interval { months, days, time });
        for (text, expected) in [
            ("30 s", of(0, 0, 30 * SECOND)),
            ("30s", of(0, 0, 30 * SECOND)),
            ("1.5 seconds", of(0, 0, 1_500_000)),
            ("00:00:30", of(0, 0, 30 * SECOND)),
            ("-00:00:00.000001", of(0, 0, -1)),
            ("100:00", of(0, 0, 100 * HOUR)),
            ("1 year 2 mons -3 days +04:05:06.7", of(14, -3, 14_706_700_000)),
            ("1 Week 1 Day", of(0, 8, 0)),
            ("infinity", Some(INFINITY)),
            ("", None),
            ("30", None),
            ("s", None),
            ("30 parsecs", None),
            ("1:2:3:4", None),
            ("00:60:00", None),
            ("1.0000001 s", None),
            ("1. s", None),
            ("1.5 days", None),
            ("--1 s", None),
            ("99999999999999999999 s", None),
            ("9999999999 days", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn intervals_are_written_in_their_largest_units() {
        for (text, written) in [
            ("30 s", "30 seconds"),
            ("60s", "1 minute"),
            ("90 minutes", "90 minutes"),
            ("24 hours", "24 hours"),
            ("12 months 7 days", "1 year 7 days"),
            ("0.0025 s", "2500 us"),
            ("0 s", "0 seconds"),
        ] {
            assert_eq!(parse(text).map(print).as_deref(), Ok(written), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(months: i32, days: i32, time: i64) {
            let interval = Interval { months, days, time };
            prop_assert_eq!(parse(&print(interval)), Ok(interval));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+.:0-9a-z ]{0,30}|.*") {
            if let Ok(interval) = parse(&text) {
                prop_assert_eq!(parse(&print(interval)), Ok(interval));
            }
        }
    }
}
