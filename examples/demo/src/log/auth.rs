//! Failed logins in the log of an OpenSSH server.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{date, Entry, What};

/// A failed login, which may not say in which year.
#[derive(Clone)]
pub struct Login {
    at: At,
    client: String,
    account: String,
}

#[derive(Clone, Copy)]
enum At {
    Known(i64),
    InSomeYear { month: i64, day: i64, time: [i64; 3] },
}

/// `Dec 10 06:55:48 HOST sshd[1]: Failed password for [invalid user ]NAME from ADDRESS port 2 ssh2`,
/// also with a time such as `2026-03-02T09:00:00.123456+01:00`; with how often it happened.
pub fn parse(line: &str) -> Option<(Login, usize)> {
    let (head, message) = line.split_once("]: ")?;
    // Newer versions call the process sshd-session.
    let (head, _) = head.rsplit_once(" sshd")?;
    let (message, times) = match message.strip_prefix("message repeated ") {
        None => (message, 1),
        Some(repeated) => {
            let (times, message) = repeated.split_once(" times: [ ")?;
            (message, times.parse().ok().filter(|times| (1..=10_000).contains(times))?)
        }
    };
    let message = message.strip_prefix("Failed password for ")?;
    // The account is what the attacker likes, so the address is looked for from the end.
    let (account, address) = message.rsplit_once(" from ")?;
    let account = account.strip_prefix("invalid user ").unwrap_or(account).to_owned();
    let client = address.split(' ').next()?.to_owned();
    Some((Login { at: traditional(head).or_else(|| iso(head))?, client, account }, times))
}

/// `Dec 10 06:55:48 HOST`
fn traditional(head: &str) -> Option<At> {
    let mut words = head.split_ascii_whitespace();
    let month = date::month(words.next()?)?;
    let day = words.next()?.parse().ok()?;
    Some(At::InSomeYear { month, day, time: date::time_of_day(words.next()?)? })
}

/// `2026-03-02T09:00:00.123456+01:00 HOST`
fn iso(head: &str) -> Option<At> {
    let (day, time) = head.split(' ').next()?.split_once('T')?;
    let mut day = day.split('-').map(|part| part.parse().ok());
    let day = [day.next()??, day.next()??, day.next()??];
    let (time, zone) = time.split_at(time.find(['+', '-', 'Z'])?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some(At::Known(date::from_civil(day, date::time_of_day(time)?)? + micros - date::offset(zone)?))
}

/// Gives each login its year: the last one is of this year.
pub fn date(logins: Vec<Login>) -> Vec<Entry> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut year = i64::try_from(now / 31_556_952).map_or(1970, |years| 1970 + years);
    let mut later = 12;
    let mut entries = Vec::with_capacity(logins.len());
    for Login { at, client, account } in logins.into_iter().rev() {
        let at = match at {
            At::Known(at) => Some(at),
            At::InSomeYear { month, day, time } => {
                // From January back to December is back to the year before.
                year -= i64::from(month > later);
                later = month;
                date::from_civil([year, month, day], time)
            }
        };
        entries.extend(at.map(|at| Entry { at, client, what: What::FailedLogin { account } }));
    }
    entries.reverse();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Entry {
        date(vec![parse(line).unwrap().0]).remove(0)
    }

    #[test]
    fn names_that_pretend() {
        let line =
            "Mar  2 09:00:00 host sshd[7]: Failed password for invalid user x from 192.0.2.1 \
                    from 198.51.100.4 port 22 ssh2";
        let entry = entry(line);
        assert_eq!(entry.client, "198.51.100.4");
        assert_eq!(entry.what, What::FailedLogin { account: "x from 192.0.2.1".into() });
    }

    #[test]
    fn iso_times() {
        let line =
            "2026-03-02T10:00:00.25+01:00 host sshd-session[7]: Failed password for root from \
                    2001:db8::1 port 22 ssh2";
        assert_eq!(entry(line).at, 1_772_442_000_250_000);
    }

    #[test]
    fn the_turn_of_the_year() {
        let line =
            |day| format!("{day} 23:59:59 h sshd[7]: Failed password for a from b port 1 ssh2");
        let lines = [line("Dec 31"), line("Jan  1"), line("Feb 28")];
        let entries = date(lines.iter().map(|line| parse(line).unwrap().0).collect());
        assert_eq!(entries[1].at - entries[0].at, 86_400 * date::SECOND);
        assert_eq!(entries[2].at - entries[1].at, 58 * 86_400 * date::SECOND);
    }

    #[test]
    fn other_lines() {
        assert!(
            parse("Mar  2 09:00:00 host sshd[7]: Accepted password for a from b port 1").is_none()
        );
        assert!(parse("Mar  2 09:00:00 host su[7]: Failed password for a from b port 1").is_none());
        assert!(parse("").is_none());
    }
}
