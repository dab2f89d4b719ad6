//! Rule 5: windows that follow a calendar, against `jiff` as the time zone and as the judge.
//!
//! The zones are written as POSIX rules, so that the answers do not hang on a machine's time zone files.

mod common;

use std::rc::Rc;

use common::{first_hit, fixed, Key};
use jiff::civil::{date, Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, ToSpan, Unit, Zoned};
use proptest::prelude::*;
use ratelimit_core::calendar::{after, window};
use ratelimit_core::{Calendar, Micros, Now, Period, RateSpec, Rule, DAY, HOUR, MINUTE, SECOND};

/// Days of 23 and 25 hours, the change at 2 and 3 in the morning.
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
/// The change at midnight: one day begins at 1:00, another has its first hour twice.
const HAVANA: &str = "CST5CDT,M3.2.0/0,M11.1.0/1";
/// The change at 24:00: one day begins at 1:00, another has its last hour twice.
const SANTIAGO: &str = "<-04>4<-03>,M9.1.6/24,M4.1.6/24";
/// The change a minute after midnight: in autumn the date goes back to yesterday.
const ST_JOHNS: &str = "NST3:30NDT,M3.2.0/0:01,M11.1.0/0:01";
/// A change of half an hour.
const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";
const KATHMANDU: &str = "<+0545>-5:45";

struct Zone(TimeZone);

fn zone(rule: &str) -> Zone {
    Zone(TimeZone::posix(rule).unwrap())
}

fn utc(time: Micros) -> Timestamp {
    Timestamp::from_microsecond(time).unwrap()
}

impl Zone {
    fn zoned(&self, time: Micros) -> Zoned {
        utc(time).to_zoned(self.0.clone())
    }

    /// The moment at which the clock shows this; of two the first.
    fn when(&self, local: DateTime) -> Micros {
        local.to_zoned(self.0.clone()).unwrap().timestamp().as_microsecond()
    }

    fn start_of(&self, day: Date) -> Micros {
        let noon = day.at(12, 0, 0, 0).to_zoned(self.0.clone()).unwrap();
        noon.start_of_day().unwrap().timestamp().as_microsecond()
    }
}

impl Calendar for Zone {
    fn to_local(&self, time: Micros) -> Micros {
        let local = self.0.to_datetime(utc(time));
        TimeZone::UTC.to_timestamp(local).unwrap().as_microsecond()
    }

    fn to_utc(&self, local: Micros) -> Micros {
        let local = TimeZone::UTC.to_datetime(utc(local));
        let moment = self.0.to_ambiguous_timestamp(local);
        match moment.offset() {
            AmbiguousOffset::Gap { .. } => {
                let after = moment.later().unwrap() + 1.microseconds();
                let jump = self.0.preceding(after).next().unwrap();
                jump.timestamp().as_microsecond()
            }
            _ => moment.earlier().unwrap().as_microsecond(),
        }
    }
}

/// The contract's words: multiples of the unit, counted from 1970-01-01, Monday 1970-01-05, January 1970.
fn expected(period: Period, now: Micros, zone: &Zone) -> (Micros, Micros) {
    let today = zone.zoned(now).date();
    let days_since = |origin: Date| today.since((Unit::Day, origin)).unwrap().get_days();
    let days = |origin: Date, n: i32| {
        let first = origin + days_since(origin).div_euclid(n).wrapping_mul(n).days();
        (first, first + n.days())
    };
    let (first, next) = match period {
        Period::Days(n) => days(date(1970, 1, 1), n as i32),
        Period::Weeks(n) => days(date(1970, 1, 5), 7 * n as i32),
        Period::Months(n) => {
            let month = (i32::from(today.year()) - 1970) * 12 + i32::from(today.month()) - 1;
            let first =
                date(1970, 1, 1) + month.div_euclid(n as i32).wrapping_mul(n as i32).months();
            (first, first + (n as i32).months())
        }
        Period::Span(_) => unreachable!("not a calendar's"),
    };
    (zone.start_of(first), zone.start_of(next))
}

fn any_zone() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![BERLIN, HAVANA, SANTIAGO, LORD_HOWE, KATHMANDU, "UTC0"])
}

fn calendar_period() -> impl Strategy<Value = Period> {
    prop_oneof![
        prop_oneof![Just(1), 1..40u32].prop_map(Period::Days),
        prop_oneof![Just(1), 1..9u32].prop_map(Period::Weeks),
        prop_oneof![Just(1), Just(12), 1..60u32].prop_map(Period::Months),
    ]
}

/// A moment from 1900 to 2200, near a change of the clock more often than not.
fn moment() -> impl Strategy<Value = Micros> {
    let any = -70 * 366 * DAY..230 * 365 * DAY;
    prop_oneof![any.clone().prop_map(|time| (time, 0)), (any, -2 * HOUR..2 * HOUR),]
        .prop_map(|(time, offset)| if offset == 0 { time } else { near_a_change(time) + offset })
}

fn near_a_change(time: Micros) -> Micros {
    let zones = [BERLIN, HAVANA, SANTIAGO, LORD_HOWE];
    let zone = zone(zones[time.rem_euclid(4) as usize]);
    zone.0.following(utc(time)).next().map_or(time, |change| change.timestamp().as_microsecond())
}

/// A key whose windows follow a zone.
fn key(spec: &RateSpec, zone: &str) -> Key {
    let rule = Rule::new(spec, Rc::new(self::zone(zone))).unwrap();
    Key { rule, ..Key::new(spec) }
}

proptest! {
    #![proptest_config(common::cases(500))]

    #[test]
    fn rule_5_windows_are_those_of_the_calendar(rule in any_zone(), period in calendar_period(), now in moment()) {
        let zone = zone(rule);
        prop_assert_eq!(window(period, now, &zone), expected(period, now, &zone));
    }

    #[test]
    fn rule_5_windows_follow_each_other_without_gaps(
        rule in prop_oneof![any_zone(), Just(ST_JOHNS)], period in calendar_period(), now in moment()
    ) {
        let zone = zone(rule);
        let (start, end) = window(period, now, &zone);
        prop_assert!(start <= now && now < end);
        for inside in [start, (start + end) / 2, end - 1] {
            prop_assert_eq!(window(period, inside, &zone), (start, end));
        }
        prop_assert_eq!(window(period, end, &zone).0, end);
        prop_assert_eq!(window(period, start - 1, &zone).1, start);
    }

    #[test]
    fn rule_5_a_span_of_24_hours_is_utc_in_any_zone(rule in any_zone(), now in moment()) {
        let (start, end) = window(Period::Span(DAY), now, &zone(rule));
        prop_assert_eq!((start.rem_euclid(DAY), end - start), (0, DAY));
    }

    #[test]
    fn rule_5_a_first_hit_window_ends_at_the_same_local_time(rule in any_zone(), period in calendar_period(), now in moment()) {
        let zone = zone(rule);
        let span: Span = match period {
            Period::Days(n) => i64::from(n).days(),
            Period::Weeks(n) => (7 * i64::from(n)).days(),
            Period::Months(n) => i64::from(n).months(),
            Period::Span(n) => n.microseconds(),
        };
        let wanted = zone.zoned(now).datetime() + span;
        let end = after(period, now, &zone);
        // Where the clock skips that time, the window ends with the jump.
        let shown = zone.zoned(end).datetime();
        if shown == wanted {
            prop_assert_eq!(end, zone.when(wanted));
        } else {
            prop_assert!(zone.zoned(end - 1).datetime() < wanted && wanted < shown);
        }
    }

    #[test]
    fn rule_5_a_first_hit_window_keeps_its_end_whatever_is_asked_meanwhile(
        rule in prop_oneof![any_zone(), Just(ST_JOHNS)],
        text in prop::sample::select(vec!["1/day", "1/week", "1/month"]),
        start in moment(),
        calls in prop::collection::vec(0..3 * HOUR, 1..4),
    ) {
        let mut key = key(&first_hit(text), rule);
        let mut now = Now::at(start);
        let end = now.plus(key.take(now, 1).reset_after);
        for gap in calls {
            now = now.plus(gap);
            prop_assert_eq!(now.plus(key.take(now, 1).retry_after.unwrap()), end);
        }
    }

    #[test]
    fn rule_3_waiting_exactly_retry_after_passes_in_any_zone(
        rule in prop_oneof![any_zone(), Just(ST_JOHNS)], days in 1..9u32, by_hit: bool, now in moment()
    ) {
        let text = format!("1 per {days} days");
        let spec = if by_hit { first_hit(&text) } else { fixed(&text) };
        let (mut key, now) = (key(&spec, rule), Now::at(now));
        prop_assert!(key.take(now, 1).allowed);
        let wait = key.take(now, 1).retry_after.unwrap();
        prop_assert!(!key.peek(now.plus(wait - 1), 1).allowed);
        prop_assert!(key.take(now.plus(wait), 1).allowed);
    }
}

/// How long the window lasts that begins with this local day.
fn length(text: &str, zone: &str, day: Date) -> Micros {
    let start = self::zone(zone).start_of(day);
    let mut key = key(&fixed(text), zone);
    key.take(Now::at(start), 1).reset_after
}

#[test]
fn a_day_of_berlin_has_23_hours_in_march_and_25_in_october() {
    assert_eq!(length("1/day", BERLIN, date(2026, 3, 28)), 24 * HOUR);
    assert_eq!(length("1/day", BERLIN, date(2026, 3, 29)), 23 * HOUR);
    assert_eq!(length("1/day", BERLIN, date(2026, 10, 25)), 25 * HOUR);
}

#[test]
fn a_day_whose_midnight_is_skipped_begins_with_the_jump() {
    let havana = zone(HAVANA);
    let jump = havana.start_of(date(2026, 3, 8));
    assert_eq!(havana.zoned(jump).datetime(), date(2026, 3, 8).at(1, 0, 0, 0));
    let (start, end) = window(Period::Days(1), jump, &havana);
    assert_eq!((start, end - start), (jump, 23 * HOUR));
    assert_eq!(window(Period::Days(1), jump - 1, &havana), (jump - 24 * HOUR, jump));
}

#[test]
fn a_day_whose_midnight_comes_twice_begins_with_the_first() {
    assert_eq!(length("1/day", HAVANA, date(2026, 11, 1)), 25 * HOUR);
    let mut key = key(&fixed("1/day"), HAVANA);
    let first = Now::at(zone(HAVANA).start_of(date(2026, 11, 1)));
    assert!(key.take(first, 1).allowed);
    assert!(!key.take(first.plus(HOUR), 1).allowed, "the second midnight opens no new day");
    assert!(key.take(first.plus(25 * HOUR), 1).allowed);
}

#[test]
fn a_date_that_goes_back_to_yesterday_does_not_open_yesterday_again() {
    let mut key = key(&fixed("1/day"), ST_JOHNS);
    let midnight = Now::at(zone(ST_JOHNS).start_of(date(2026, 11, 1)));
    assert!(key.take(midnight.plus(-MINUTE), 1).allowed);
    assert!(key.take(midnight, 1).allowed);
    // 0:01 became 23:01.
    assert!(!key.take(midnight.plus(2 * MINUTE), 1).allowed);
    assert!(!key.take(midnight.plus(HOUR), 1).allowed);
}

#[test]
fn weeks_begin_on_monday() {
    let sunday = zone(BERLIN).when(date(2026, 11, 22).at(23, 59, 59, 0));
    let mut key = key(&fixed("1/week"), BERLIN);
    assert!(key.take(Now::at(sunday), 1).allowed);
    assert_eq!(key.take(Now::at(sunday), 1).retry_after, Some(SECOND));
}

#[test]
fn fortnights_are_counted_from_monday_1970_01_05() {
    let (start, _) = window(Period::Weeks(2), 15 * DAY, &zone("UTC0"));
    assert_eq!(start, 4 * DAY);
    assert_eq!(window(Period::Weeks(2), 0, &zone("UTC0")), (-10 * DAY, 4 * DAY));
}

#[test]
fn months_and_years_have_their_own_lengths() {
    assert_eq!(length("1/month", "UTC0", date(2024, 2, 1)), 29 * DAY);
    assert_eq!(length("1/month", "UTC0", date(2026, 2, 1)), 28 * DAY);
    assert_eq!(length("1/month", BERLIN, date(2026, 3, 1)), 31 * DAY - HOUR);
    assert_eq!(length("1/year", BERLIN, date(2024, 1, 1)), 366 * DAY);
    assert_eq!(length("1 per 3 months", "UTC0", date(2026, 1, 1)), 90 * DAY);
}

#[test]
fn a_first_hit_month_ends_with_a_shorter_month() {
    let berlin = zone(BERLIN);
    let hit = Now::at(berlin.when(date(2026, 1, 31).at(9, 30, 0, 0)));
    let mut key = key(&first_hit("1/month"), BERLIN);
    let reset = key.take(hit, 1).reset_after;
    assert_eq!(berlin.zoned(hit.wall + reset).datetime(), date(2026, 2, 28).at(9, 30, 0, 0));
}

#[test]
fn a_first_hit_day_that_would_end_in_a_skipped_hour_ends_with_the_jump() {
    let berlin = zone(BERLIN);
    let hit = Now::at(berlin.when(date(2026, 3, 28).at(2, 30, 0, 0)));
    let reset = key(&first_hit("1/day"), BERLIN).take(hit, 1).reset_after;
    assert_eq!(berlin.zoned(hit.wall + reset).datetime(), date(2026, 3, 29).at(3, 0, 0, 0));
    assert_eq!(reset, 23 * HOUR + 30 * MINUTE);
}

#[test]
fn a_refused_call_in_a_repeated_hour_does_not_shorten_a_first_hit_day() {
    let berlin = zone(BERLIN);
    let hit = Now::at(berlin.when(date(2026, 10, 25).at(2, 30, 0, 0)));
    let mut key = key(&first_hit("1/day"), BERLIN);
    assert_eq!(key.take(hit, 1).reset_after, 25 * HOUR);
    // The clock shows 2:10 for the second time.
    let answer = key.take(hit.plus(40 * MINUTE), 1);
    assert_eq!(answer.retry_after, Some(24 * HOUR + 20 * MINUTE));
}
