//! Rate strings: `100 per minute`, `10/second burst 20, 1000/hour`.
//!
//! ```text
//! rates := rate { ("," | ";") rate }
//! rate  := number ("per" | "/") [ number ] unit [ "burst" number ]
//! ```

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::calendar::Utc;
use crate::period::Period;
use crate::rule::Rule;
use crate::spec::{check_together, Algorithm, Anchor, RateSpec, Refill, RuleError, MAX_QUOTA};
use crate::time::{DAY, HOUR, MILLISECOND, MINUTE, SECOND};

/// As many rates a string may have, and rules a limiter.
const MAX_RULES: usize = 100;

/// What is wrong with a rate string, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateError {
    /// The character where it went wrong, counted from 1.
    pub position: usize,
    /// What is wrong there: a sentence.
    pub detail: String,
}

/// Reads a rate string: one rule for each rate in it, all with this algorithm.
pub fn parse_rates(text: &str, algorithm: Algorithm) -> Result<Vec<RateSpec>, RateError> {
    let mut parser = Parser::new(text);
    let mut specs = Vec::new();
    loop {
        let start = parser.position();
        let spec = parser.rate(algorithm)?;
        if specs.len() >= MAX_RULES {
            return Err(parser.at(start, "A limiter has at most 100 rules."));
        }
        specs.push(spec);
        Rule::new(&spec, Rc::new(Utc))
            .and_then(|_| check_together(&specs))
            .map_err(|error| parser.wrong_rule(start, error))?;
        match parser.next() {
            Token::End => return Ok(specs),
            Token::Symbol(',' | ';') => {}
            other => {
                return Err(parser.expected("\",\", \";\", \"burst\" or the end", other));
            }
        }
    }
}

/// Writes a rate as a user would: the string that reads as this quota, period and burst. `None` where no string does: in periods
/// that are no whole number of milliseconds, or too many of them for the numbers of a rate.
pub fn print_rate(spec: &RateSpec) -> Option<String> {
    // Only windows tell a day from 24 hours, and a week from 7 days.
    let days = spec.algorithm != Algorithm::FixedWindow;
    let units = [("week", 7 * DAY), ("day", DAY), ("hour", HOUR), ("minute", MINUTE)]
        .into_iter()
        .filter(|(_, unit)| days || *unit < DAY)
        .chain([("second", SECOND), ("ms", MILLISECOND)]);
    let (many, unit) = match spec.period {
        Period::Span(span) => {
            let (name, unit) = { units }.find(|(_, unit)| span % unit == 0)?;
            (u64::try_from(span / unit).ok()?, name)
        }
        Period::Days(n) => (n.into(), "day"),
        Period::Weeks(n) => (n.into(), "week"),
        Period::Months(n) if n.is_multiple_of(12) => ((n / 12).into(), "year"),
        Period::Months(n) => (n.into(), "month"),
    };
    let mut text = match many {
        1 => format!("{} per {unit}", spec.quota),
        _ if many > MAX_QUOTA => return None,
        _ if unit == "ms" => format!("{} per {many} ms", spec.quota),
        _ => format!("{} per {many} {unit}s", spec.quota),
    };
    if let Some(burst) = spec.burst {
        text += &format!(" burst {burst}");
    }
    Some(text)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Number(&'a str),
    Word(&'a str),
    Symbol(char),
    End,
}

struct Parser<'a> {
    text: &'a str,
    /// Bytes read, and where the token read last began.
    offset: usize,
    token: usize,
    /// Where the parts of the rate read last begin.
    period: usize,
    burst: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Parser { text, offset: 0, token: 0, period: 0, burst: 0 }
    }

    fn next(&mut self) -> Token<'a> {
        let rest = self.text.get(self.offset..).unwrap_or("");
        let blank = rest.len() - rest.trim_start().len();
        self.token = self.offset + blank;
        let rest = rest.trim_start();
        let run = |is: fn(char) -> bool| rest.find(|c| !is(c)).unwrap_or(rest.len());
        let Some(first) = rest.chars().next() else {
            return Token::End;
        };
        let (token, length) = if first.is_ascii_digit() {
            let length = run(|c| c.is_ascii_digit());
            (Token::Number(&rest[..length]), length)
        } else if first.is_alphabetic() {
            let length = run(char::is_alphabetic);
            (Token::Word(&rest[..length]), length)
        } else {
            (Token::Symbol(first), first.len_utf8())
        };
        self.offset = self.token + length;
        token
    }

    fn peek(&mut self) -> Token<'a> {
        let (offset, at) = (self.offset, self.token);
        let token = self.next();
        (self.offset, self.token) = (offset, at);
        token
    }

    /// Where the next token begins.
    fn position(&mut self) -> usize {
        let (offset, at) = (self.offset, self.token);
        self.next();
        let position = self.token;
        (self.offset, self.token) = (offset, at);
        position
    }

    fn rate(&mut self, algorithm: Algorithm) -> Result<RateSpec, RateError> {
        let quota = self.number("a quota")?;
        match self.next() {
            Token::Symbol('/') => {}
            Token::Word(word) if word.eq_ignore_ascii_case("per") => {}
            other => return Err(self.expected("\"per\" or \"/\"", other)),
        }
        self.period = self.position();
        let many = match self.peek() {
            Token::Number(_) => self.number("a number of units")?,
            _ => 1,
        };
        let period = match self.next() {
            Token::Word(word) => period(word, many),
            other => return Err(self.expected("a unit", other)),
        };
        let period = match period {
            None => {
                let word = self.text.get(self.token..self.offset).unwrap_or("");
                return Err(self.expected("a unit", Token::Word(word)));
            }
            Some(_) if many == 0 => return Err(self.at(self.period, "A period of 0 has no end.")),
            Some(Err(error)) => return Err(self.at(self.period, &error.to_string())),
            Some(Ok(period)) => period,
        };
        let burst = match self.peek() {
            Token::Word(word) if word.eq_ignore_ascii_case("burst") => {
                self.next();
                self.burst = self.token;
                Some(self.number("a burst")?)
            }
            _ => None,
        };
        let (refill, anchor) = (Refill::Continuous, Anchor::Clock);
        Ok(RateSpec { algorithm, quota, period, burst, refill, anchor })
    }

    fn number(&mut self, what: &str) -> Result<u64, RateError> {
        match self.next() {
            Token::Number(digits) => match digits.parse() {
                Ok(number) if number <= MAX_QUOTA => Ok(number),
                _ => Err(self.at(self.token, "Numbers go up to 1000000000000.")),
            },
            other => Err(self.expected(what, other)),
        }
    }

    fn at(&self, offset: usize, detail: &str) -> RateError {
        let position = self.text.get(..offset).unwrap_or(self.text).chars().count() + 1;
        RateError { position, detail: detail.to_string() }
    }

    fn expected(&self, what: &str, found: Token<'_>) -> RateError {
        let found = match found {
            Token::End => "the end".to_string(),
            Token::Symbol(symbol) => format!("\"{symbol}\""),
            Token::Number(text) | Token::Word(text) => {
                format!("\"{}\"", text.chars().take(20).collect::<String>())
            }
        };
        self.at(self.token, &format!("Expected {what}, found {found}."))
    }

    fn wrong_rule(&self, start: usize, error: RuleError) -> RateError {
        let offset = match error {
            RuleError::Burst | RuleError::BurstWithWindow | RuleError::BurstWithoutQuota => {
                self.burst
            }
            RuleError::PeriodTooShort | RuleError::PeriodTooLong | RuleError::Months => self.period,
            _ => start,
        };
        self.at(offset, &error.to_string())
    }
}

/// The period of so many units; `None` if there is no such unit.
fn period(unit: &str, many: u64) -> Option<Result<Period, RuleError>> {
    let unit = unit.to_ascii_lowercase();
    let many = i64::try_from(many).unwrap_or(i64::MAX);
    let span = |unit: i64| Ok(Period::Span(many.saturating_mul(unit)));
    let count = |of: fn(u32) -> Period, units: i64| {
        u32::try_from(many.saturating_mul(units)).map(of).map_err(|_| RuleError::PeriodTooLong)
    };
    Some(match unit.as_str() {
        "ms" => span(MILLISECOND),
        "s" | "sec" | "second" | "seconds" => span(SECOND),
        "m" | "min" | "minute" | "minutes" => span(MINUTE),
        "h" | "hour" | "hours" => span(HOUR),
        "d" | "day" | "days" => count(Period::Days, 1),
        "week" | "weeks" => count(Period::Weeks, 1),
        "month" | "months" => count(Period::Months, 1),
        "year" | "years" => count(Period::Months, 12),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(quota: u64, period: Period, burst: Option<u64>) -> RateSpec {
        let (refill, anchor) = (Refill::Continuous, Anchor::Clock);
        RateSpec { algorithm: Algorithm::TokenBucket, quota, period, burst, refill, anchor }
    }

    #[test]
    fn every_spelling_of_the_contract_is_read() {
        let minute = Period::Span(MINUTE);
        for (text, expected) in [
            ("100 per minute", bucket(100, minute, None)),
            ("100/minute", bucket(100, minute, None)),
            ("5 per 10M", bucket(5, Period::Span(10 * MINUTE), None)),
            ("100/5m", bucket(100, Period::Span(5 * MINUTE), None)),
            (" 10 /\tSecond  BURST 20 ", bucket(10, Period::Span(SECOND), Some(20))),
            ("1 per 3 days", bucket(1, Period::Days(3), None)),
            ("7/week", bucket(7, Period::Weeks(1), None)),
            ("0 per ms", bucket(0, Period::Span(MILLISECOND), None)),
            ("1000000000000/h", bucket(1_000_000_000_000, Period::Span(HOUR), None)),
        ] {
            assert_eq!(
                parse_rates(text, Algorithm::TokenBucket),
                Ok([expected].to_vec()),
                "{text}"
            );
        }
        let two = parse_rates("10/second burst 20; 1000/hour", Algorithm::TokenBucket).unwrap();
        assert_eq!(two.len(), 2);
        let year = parse_rates("5 per 2 years", Algorithm::FixedWindow).unwrap();
        assert_eq!(year[0].period, Period::Months(24));
    }

    #[test]
    fn a_rate_is_written_as_a_user_would() {
        use Algorithm::{FixedWindow, TokenBucket};
        for (algorithm, text, written) in [
            (TokenBucket, "100/minute", "100 per minute"),
            (TokenBucket, "5/300s burst 9", "5 per 5 minutes burst 9"),
            (TokenBucket, "5/90s", "5 per 90 seconds"),
            (TokenBucket, "1/1500ms", "1 per 1500 ms"),
            (TokenBucket, "7/week", "7 per week"),
            (FixedWindow, "7/24h", "7 per 24 hours"),
            (FixedWindow, "7/d", "7 per day"),
            (FixedWindow, "7/14 days", "7 per 14 days"),
            (FixedWindow, "7/2 weeks", "7 per 2 weeks"),
            (FixedWindow, "7/year", "7 per year"),
            (FixedWindow, "7/18 months", "7 per 18 months"),
        ] {
            let spec = parse_rates(text, algorithm).unwrap()[0];
            assert_eq!(print_rate(&spec).as_deref(), Some(written), "{text}");
        }
        let third = Period::Span(SECOND / 3);
        assert_eq!(print_rate(&bucket(1, third, None)), None);
        let long = Period::Span(DAY * 20_000 + MILLISECOND);
        assert_eq!(print_rate(&bucket(1, long, None)), None);
    }

    #[test]
    fn a_string_has_at_most_as_many_rates_as_a_limiter_has_rules() {
        let rates = |count| ["1/s"].repeat(count).join(",");
        assert_eq!(parse_rates(&rates(100), Algorithm::TokenBucket).unwrap().len(), 100);
        let error = parse_rates(&rates(1_000_000), Algorithm::TokenBucket).unwrap_err();
        assert_eq!(error.position, 401);
    }

    #[test]
    fn a_wrong_string_says_where() {
        for (text, position) in [
            ("", 1),
            ("ten per minute", 1),
            ("10 pr minute", 4),
            ("10 per fortnight", 8),
            ("10 per 5", 9),
            ("10 per 0 minutes", 8),
            ("10/minute,", 11),
            ("10/minute, ,5/hour", 12),
            ("10/minute burst 0", 11),
            ("10/minute burst", 16),
            ("0/minute burst 5", 10),
            ("-1/minute", 1),
            ("10/minute 5/hour", 11),
            ("1000000000001/minute", 1),
            ("1 per 1001 years", 7),
            ("1 per month", 7),
            ("1.5/minute", 2),
            ("10/minute, 20/minute", 12),
            ("1/é", 3),
        ] {
            let error = parse_rates(text, Algorithm::TokenBucket).unwrap_err();
            assert_eq!(error.position, position, "{text}: {}", error.detail);
        }
        let burst = parse_rates("10/minute burst 20", Algorithm::FixedWindow).unwrap_err();
        assert_eq!(burst.position, 11);
        assert_eq!(burst.detail, "Only token_bucket has a burst.");
        let log = parse_rates("1001/minute", Algorithm::SlidingLog).unwrap_err();
        assert_eq!(log.position, 1);
    }
}
