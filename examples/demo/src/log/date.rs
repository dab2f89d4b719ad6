//! Dates as logs write them.

/// Microseconds of a second.
pub const SECOND: i64 = 1_000_000;

const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// The number of a month from its three letters, January being 1.
pub fn month(name: &str) -> Option<i64> {
    let position = MONTHS.chunks(3).position(|month| month == name.as_bytes())?;
    i64::try_from(position).ok().map(|position| position + 1)
}

/// A point in time of the Gregorian calendar as microseconds since 1970 began.
pub fn from_civil(date: [i64; 3], time: [i64; 3]) -> Option<i64> {
    let ([year, month, day], [hour, minute, second]) = (date, time);
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !valid {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * SECOND)
}

/// The hour, minute and second of `HH:MM:SS`.
pub fn time_of_day(text: &str) -> Option<[i64; 3]> {
    let mut parts = text.split(':').map(|part| part.parse().ok());
    let time = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(time)
}

/// What an offset such as `+0200` or `-05:30` adds to UTC, in microseconds.
pub fn offset(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return (text == "Z").then_some(0),
    };
    let digits = digits.replace(':', "");
    if digits.len() != 4 {
        return None;
    }
    let number: i64 = digits.parse().ok()?;
    Some(sign * (number / 100 * 60 + number % 100) * 60 * SECOND)
}

/// A point in time as `02 Mar 09:00:00`, in UTC.
pub fn show(at: i64) -> String {
    let seconds = at.div_euclid(SECOND);
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The reverse of from_civil, from 1 March of the year 0.
    let days = (days + 719_468).rem_euclid(146_097);
    let year = (days - days / 1_460 + days / 36_524 - days / 146_096) / 365;
    let day_of_year = days - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let name = MONTHS.chunks(3).nth(usize::try_from((month + 2) % 12).unwrap_or(0));
    let name = String::from_utf8_lossy(name.unwrap_or(b"???"));
    format!("{day:02} {name} {:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown() {
        assert_eq!(show(0), "01 Jan 00:00:00");
        assert_eq!(show(951_868_799 * SECOND), "29 Feb 23:59:59");
        assert_eq!(show(1_735_689_599 * SECOND), "31 Dec 23:59:59");
    }

    #[test]
    fn the_calendar() {
        assert_eq!(from_civil([1970, 1, 1], [0, 0, 0]), Some(0));
        assert_eq!(from_civil([2000, 2, 29], [23, 59, 59]), Some(951_868_799 * SECOND));
        assert_eq!(from_civil([2024, 12, 31], [12, 0, 0]), Some(1_735_646_400 * SECOND));
        assert_eq!(from_civil([2024, 13, 1], [0, 0, 0]), None);
    }

    #[test]
    fn offsets() {
        assert_eq!(offset("+0200"), Some(7200 * SECOND));
        assert_eq!(offset("-05:30"), Some(-19_800 * SECOND));
        assert_eq!(offset("Z"), Some(0));
        assert_eq!(offset("CET"), None);
    }
}
