use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use ratelimit_core::{check_together, Algorithm, Interval, RateSpec, Refill};
use serde_json::json;

use super::*;
use crate::interval::Text;
use crate::limiter::{Limiter, Override, Rule};

/// A server with memory, two time zones, and a clock that stands still.
struct Fake;

const NOW: Moment = Moment(753_315_200_000_000);

impl Server for Fake {
    fn has_memory(&self) -> bool {
        true
    }
    fn now(&self) -> Moment {
        NOW
    }
    fn has_infinite_intervals(&self) -> bool {
        false
    }
    fn knows_time_zone(&self, name: &str) -> bool {
        ["Europe/Berlin", "Asia/Tokyo"].contains(&name)
    }
    fn name_flaw(&self, name: &str) -> Option<&'static str> {
        let flawed = name.is_empty() || name.len() > 63 || name.contains(char::is_control);
        flawed.then_some("That is no name.")
    }
}

fn planned(document: &str, rows: &str, prune: bool) -> Vec<(Action, String)> {
    let steps = plan(document, rows, prune, &Fake).unwrap();
    steps.into_iter().map(|step| (step.action, step.limiter)).collect()
}

/// The rows of the limiters that a document creates.
fn rows(document: &str) -> String {
    let steps = plan(document, "[]", false, &Fake).unwrap();
    json!(steps.into_iter().map(|step| step.definition).collect::<Vec<_>>()).to_string()
}

fn mistakes(document: &str) -> Vec<Mistake> {
    match plan(document, "[]", true, &Fake) {
        Err(Flaw::Document(mistakes)) => mistakes,
        other => panic!("{document}: {other:?}"),
    }
}

#[test]
fn a_wrong_document_is_told_where() {
    let lines = include_str!("wrong.txt").lines().filter(|line| !line.starts_with('#'));
    let wrong: Vec<_> = lines.map(|line| line.split_at(line.find(" {").unwrap_or(36))).collect();
    assert!(wrong.len() >= 100);
    for (path, document) in wrong {
        let path = path.trim().trim_start_matches("(document)");
        let found = mistakes(document);
        assert_eq!(found[0].path, path, "{document}: {}", found[0].detail);
        assert!(found[0].detail.ends_with('.'), "{document}: {}", found[0].detail);
    }
}

#[test]
fn all_mistakes_are_told() {
    let found = mistakes(
        r#"{"limiters": {"a": {"rates": "1 pr s", "mode": "on", "ban": {"after": -1}}, "b": {"rules": [{"rate": ""}, {"rate": "5"}]}}}"#,
    );
    let found: Vec<_> = found.iter().map(|m| (m.path.as_str(), m.detail.as_str())).collect();
    assert_eq!(
        found,
        [
            ("limiters.a.mode", r#"Expected "enforce" or "shadow" or "off", found "on"."#),
            ("limiters.a.ban", "The field within is missing."),
            (
                "limiters.a.rates",
                r#"Invalid rate "1 pr s" at character 3: Expected "per" or "/", found "pr"."#
            ),
            ("limiters.a.ban.after", "Expected a whole number from 1 to 2147483647, found -1."),
            (
                "limiters.b.rules[0].rate",
                r#"Invalid rate "" at character 1: Expected a quota, found the end."#
            ),
            (
                "limiters.b.rules[1].rate",
                r#"Invalid rate "5" at character 2: Expected "per" or "/", found the end."#
            ),
        ]
    );
}

#[test]
fn what_is_long_is_told_in_short() {
    let document = json!({ "limiters": { "api": { "rates": "9".repeat(10_000) } } });
    let found = mistakes(&document.to_string());
    assert!(found[0].detail.len() < 200, "{}", found[0].detail);
}

#[test]
fn an_infinite_interval_is_for_servers_that_know_it() {
    let found = mistakes(r#"{"limiters": {"a": {"rates": "1/s", "wait_timeout": "infinity"}}}"#);
    assert_eq!(found[0].path, "limiters.a.wait_timeout");
}

#[test]
fn a_document_is_written_in_its_shortest_form() {
    for (given, written) in [
        (json!({ "rates": "100/MINUTE" }), json!({ "rates": "100 per minute" })),
        (
            json!({ "rates": "10/s; 1000/60m burst 2000", "algorithm": "token_bucket", "time_zone": "utc" }),
            json!({ "rates": "10 per second, 1000 per hour burst 2000" }),
        ),
        (
            json!({ "rates": "7/7 days, 8/2 weeks", "algorithm": "fixed_window", "time_zone": "Europe/Berlin" }),
            json!({ "rates": "7 per 7 days, 8 per 2 weeks", "algorithm": "fixed_window", "time_zone": "Europe/Berlin" }),
        ),
        (
            json!({ "rules": [{ "rate": "1/s" }, { "rate": "9/h" }] }),
            json!({ "rates": "1 per second, 9 per hour" }),
        ),
        (
            json!({ "rules": [{ "rate": "1/week", "anchor": "epoch", "algorithm": "fixed_window" }] }),
            json!({ "rates": "1 per 7 days", "algorithm": "fixed_window" }),
        ),
        (
            json!({ "rules": [{ "rate": "1/s", "refill": "interval" }, { "rate": "9/d", "anchor": "first_hit", "algorithm": "fixed_window" }] }),
            json!({ "rules": [{ "rate": "1 per second", "refill": "interval" }, { "rate": "9 per day", "anchor": "first_hit", "algorithm": "fixed_window" }] }),
        ),
        (
            json!({ "rules": [{ "quota": 1, "period": "1.000001 s", "burst": 2 }] }),
            json!({ "rules": [{ "quota": 1, "period": "1000001 us", "burst": 2 }] }),
        ),
        (json!({ "rules": [] }), json!({ "rules": [] })),
        (
            json!({ "rules": [], "max_concurrent": 5, "wait_timeout": "00:00:30" }),
            json!({ "max_concurrent": 5, "wait_timeout": "30 seconds" }),
        ),
        (
            json!({ "rates": "1/s", "storage": "memory", "on_rollback": "keep", "mode": "enforce", "description": null, "overrides": {} }),
            json!({ "rates": "1 per second" }),
        ),
        (
            json!({ "rates": "1/s", "storage": "durable", "on_rollback": "refund", "mode": "shadow", "description": "" }),
            json!({ "rates": "1 per second", "storage": "durable", "mode": "shadow", "description": "" }),
        ),
        (
            json!({ "rates": "1/s", "ban": { "after": 20, "within": "60 s", "for": "600 s" } }),
            json!({ "rates": "1 per second", "ban": { "after": 20, "within": "1 minute", "for": "10 minutes" } }),
        ),
        (
            json!({ "rates": "1/s", "overrides": {
                "vip": { "action": "limit", "quota": 9, "burst": 10 },
                "bad": { "action": "deny", "reason": "abuse", "expires_at": "2100-01-01T02:00+02:00" },
                "was": { "action": "deny", "expires_at": "2020-01-01T00:00:00Z" },
                "friend": { "action": "allow", "expires_at": "infinity" } } }),
            json!({ "rates": "1 per second", "overrides": {
                "vip": { "action": "limit", "quota": 9, "burst": 10 },
                "bad": { "action": "deny", "reason": "abuse", "expires_at": "2100-01-01T00:00:00Z" },
                "friend": { "action": "allow" } } }),
        ),
    ] {
        let given = json!({ "limiters": { "api": given } }).to_string();
        let written = json!({ "limiters": { "api": written } });
        assert_eq!(export(&rows(&given), &Fake), Ok(written), "{given}");
    }
}

#[test]
fn a_plan_has_what_differs() {
    let rows = rows(
        r#"{"limiters": {"b": {"rates": "1/s"}, "c": {"rates": "1/s"}, "d": {"rates": "1/s"}}}"#,
    );
    let wanted =
        r#"{"limiters": {"a": {"rates": "1/s"}, "b": {"rates": "1/s"}, "c": {"rates": "2/s"}}}"#;
    let (a, c, d) = ("a".to_owned(), "c".to_owned(), "d".to_owned());
    assert_eq!(
        planned(wanted, &rows, false),
        [(Action::Created, a.clone()), (Action::Changed, c.clone())]
    );
    assert_eq!(
        planned(wanted, &rows, true),
        [(Action::Created, a), (Action::Changed, c), (Action::Dropped, d)]
    );
}

#[test]
fn rules_keep_their_positions() {
    let rule = |position, rate: &str| {
        Rule::new(
            position,
            ratelimit_core::parse_rates(rate, Algorithm::TokenBucket).unwrap()[0],
            "UTC",
        )
    };
    let document = |rates: &str| json!({ "limiters": { "api": { "rates": rates } } }).to_string();
    for (positions, rates, expected) in [
        (vec![1, 2], "5/s", vec![1]),
        (vec![3, 7], "5/s, 6/m", vec![3, 7]),
        (vec![3, 7], "5/s, 6/m, 7/h, 8/d", vec![3, 7, 8, 9]),
        (vec![99, 100], "5/s, 6/m, 7/h", vec![1, 2, 3]),
    ] {
        let mut limiter: Limiter = serde_json::from_value(
            serde_json::from_str::<Value>(&rows(&document("1/s"))).unwrap()[0].take(),
        )
        .unwrap();
        limiter.rules = positions.iter().map(|n| rule(*n, &format!("1/{n} s"))).collect();
        let steps = plan(&document(rates), &json!([limiter]).to_string(), false, &Fake).unwrap();
        let rules = &steps[0].definition.as_ref().unwrap().rules;
        let found: Vec<_> = rules.iter().map(|rule| rule.position).collect();
        assert_eq!(found, expected, "{positions:?} to {rates}");
    }
}

#[test]
fn rows_that_make_no_sense_can_be_replaced_but_not_written() {
    let document = r#"{"limiters": {"api": {"rates": "1/s"}}}"#;
    let rows = rows(document).replace("token_bucket", "leaky_bucket");
    assert_eq!(planned(document, &rows, false), [(Action::Changed, "api".to_owned())]);
    let detail = "There is no such algorithm.".to_owned();
    assert_eq!(export(&rows, &Fake), Err(Flaw::Rows { limiter: "api".to_owned(), detail }));
}

fn periods() -> impl Strategy<Value = Interval> {
    let (months, days, time) = (1..12_000_i32, 1..300_000_i32, 1_000..30_000_000_000_000_000_i64);
    prop_oneof![
        months.prop_map(|months| Interval { months, days: 0, time: 0 }),
        days.prop_map(|days| Interval { months: 0, days, time: 0 }),
        time.prop_map(|time| Interval { months: 0, days: 0, time }),
        (1..100_000_i64).prop_map(|s| Interval { months: 0, days: 0, time: s * 1_000_000 }),
    ]
}

/// A rule as a row might say it.
fn rule() -> impl Strategy<Value = Rule> {
    let how = (0..4_usize, 0..3_usize, any::<bool>(), 0..3_usize);
    let rows = (1..=100_i32, how, periods(), 0..2_000_u64, option::of(1..2_000_u64));
    rows.prop_filter_map("no rule", |(position, how, period, quota, burst)| {
        let (algorithm, anchor, refill, zone) = how;
        let algorithm = Algorithm::NAMES[algorithm].1;
        let (anchor, weeks_are_days) = limiter::ANCHORS[anchor].1;
        let refill = if refill { Refill::Interval } else { Refill::Continuous };
        let period = period.period_of(algorithm, weeks_are_days).ok()?;
        let spec = RateSpec { algorithm, quota, period, burst, refill, anchor };
        spec.rule().ok()?;
        let zone = ["UTC", "Europe/Berlin", "Asia/Tokyo"][zone];
        let fits = algorithm == Algorithm::FixedWindow || zone == "UTC";
        fits.then(|| Rule::new(position, spec, zone))
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    vec(rule(), 0..5).prop_map(|mut rules| {
        rules.sort_by_key(|rule| rule.position);
        rules.dedup_by_key(|rule| rule.position);
        let specs: Vec<_> = rules.iter().map(|rule| rule.spec).collect();
        let fit = (0..=specs.len()).rev().find(|n| check_together(&specs[..*n]).is_ok());
        rules.truncate(fit.unwrap_or(0));
        rules
    })
}

fn time() -> impl Strategy<Value = Text> {
    (0..50_i32, 0..50_i32, 1_000..1_000_000_000_000_i64)
        .prop_map(|(months, days, time)| Text(Interval { months, days, time }))
}

fn exemption() -> impl Strategy<Value = Override> {
    let expires_at = option::of((NOW.0 + 1..4_000_000_000_000_000).prop_map(Moment));
    let limit = (0..5_u64, option::of(1..9_u64));
    (0..3_usize, limit, expires_at, option::of(".*")).prop_map(
        |(action, limit, expires_at, reason)| {
            let limit = if action == 2 { Some(limit) } else { None };
            Override {
                action: ["allow", "deny", "limit"][action].to_owned(),
                quota: limit.map(|(quota, _)| quota),
                burst: limit.and_then(|(quota, burst)| burst.filter(|_| quota > 0)),
                expires_at,
                reason,
            }
        },
    )
}

fn limiter() -> impl Strategy<Value = Limiter> {
    let words = (option::of(".*"), any::<bool>(), any::<bool>(), 0..3_usize);
    let ban = option::of((1..100_i32, time(), option::of(time())));
    let overrides = btree_map(".*", exemption(), 0..4);
    (words, option::of(0..9_i32), option::of(time()), ban, rules(), overrides).prop_map(
        |(
            (description, durable, refund, mode),
            max_concurrent,
            wait_timeout,
            ban,
            rules,
            overrides,
        )| Limiter {
            name: String::new(),
            description,
            storage: if durable { "durable" } else { "memory" }.to_owned(),
            on_rollback: if durable || refund { "refund" } else { "keep" }.to_owned(),
            mode: ["enforce", "shadow", "off"][mode].to_owned(),
            max_concurrent,
            wait_timeout,
            ban_after: ban.map(|(after, ..)| after),
            ban_within: ban.map(|(_, within, _)| within),
            ban_for: ban.and_then(|(_, _, time)| time),
            rules,
            overrides,
        },
    )
}

fn only_limits_that_fit(mut limiter: Limiter) -> Limiter {
    let first = limiter.rules.first();
    let fits = |o: &Override| Some(read::limited(first?, o.quota?, o.burst).is_ok());
    limiter.overrides.retain(|_, found| fits(found).unwrap_or(true));
    limiter
}

fn limiters() -> impl Strategy<Value = Vec<Limiter>> {
    btree_map("[^\\p{C}]{1,15}", limiter(), 0..4).prop_map(|limiters: BTreeMap<_, _>| {
        let named = limiters.into_iter().map(|(name, limiter)| Limiter { name, ..limiter });
        let named = named.filter(|limiter| Fake.name_flaw(&limiter.name).is_none());
        named.map(only_limits_that_fit).collect()
    })
}

proptest! {
    #[test]
    fn definitions_survive_the_document(limiters in limiters()) {
        let rows = json!(limiters).to_string();
        let document = export(&rows, &Fake).unwrap();
        // Applied where it comes from it changes nothing; applied elsewhere it gives the same document again.
        prop_assert_eq!(planned(&document.to_string(), &rows, true), []);
        let again = self::rows(&document.to_string());
        prop_assert_eq!(export(&again, &Fake), Ok(document));
    }

    #[test]
    fn any_document_is_read_or_refused(document in json_like()) {
        match plan(&document.to_string(), "[]", true, &Fake) {
            Ok(steps) => {
                let rows = json!(steps.into_iter().map(|step| step.definition).collect::<Vec<_>>()).to_string();
                prop_assert_eq!(planned(&document.to_string(), &rows, true), []);
            }
            Err(Flaw::Document(mistakes)) => prop_assert!(!mistakes.is_empty()),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }
}

/// Documents with the right words in wrong places, and with wrong ones.
fn json_like() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 21] = [
        "limiters",
        "rates",
        "rate",
        "rules",
        "algorithm",
        "quota",
        "period",
        "burst",
        "ban",
        "after",
        "within",
        "for",
        "overrides",
        "action",
        "expires_at",
        "storage",
        "max_concurrent",
        "1/s",
        "deny",
        "1 day",
        "fixed_window",
    ];
    let leaf = prop_oneof![
        proptest::sample::select(&WORDS[..]).prop_map(|word| json!(word)),
        any::<i64>().prop_map(|n| json!(n)),
        Just(json!(1)),
        Just(Value::Null),
        Just(json!(0.5)),
    ];
    let any = leaf.prop_recursive(4, 32, 4, |inner| {
        let key = proptest::sample::select(&WORDS[..]).prop_map(str::to_owned);
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|values| json!(values)),
            btree_map(key, inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    });
    any.prop_map(|value| json!({ "limiters": { "api": value } }))
}
