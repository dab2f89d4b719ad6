//! The document as limiters: what it may say, and what contradicts itself.

use std::collections::BTreeMap;

use ratelimit_core::{
    check_together, parse_rates, Algorithm, Anchor, Interval, Period, RateSpec, Refill, RuleError,
    MAX_LOG,
};
use serde_json::Value;

use crate::document::{integer, quota, shown, text, word, Mistake, Mistakes, Object};
use crate::interval::{self, Text};
use crate::limiter::{named, Limiter, Override, Rule, ANCHORS, REFILLS, UTC};
use crate::moment::Moment;
use crate::Server;

const LIMITER: [&str; 12] = [
    "description",
    "rates",
    "algorithm",
    "time_zone",
    "rules",
    "storage",
    "on_rollback",
    "mode",
    "max_concurrent",
    "wait_timeout",
    "ban",
    "overrides",
];
const BAN: [&str; 3] = ["after", "within", "for"];
const RULE: [&str; 8] =
    ["rate", "quota", "period", "burst", "algorithm", "refill", "anchor", "time_zone"];
const OVERRIDE: [&str; 5] = ["action", "quota", "burst", "expires_at", "reason"];
const MAX_RULES: usize = 100;

/// All limiters that a document defines, by name.
///
/// # Errors
/// All that is wrong with it, where it was found.
pub fn read(document: &str, server: &dyn Server) -> Result<Vec<Limiter>, Vec<Mistake>> {
    let mistakes = Mistakes::default();
    let json = &mut serde_json::Deserializer::from_str(document);
    match serde_path_to_error::deserialize::<_, Value>(json) {
        Ok(value) => {
            let limiters = limiters(&value, &mistakes, server);
            if let (Some(limiters), 0) = (limiters, mistakes.count()) {
                return Ok(limiters);
            }
        }
        // Numbers without end, and objects in objects in objects.
        Err(error) => {
            mistakes.add(&shown(&error.path().to_string()), "It is too large or too deep.");
        }
    }
    Err(mistakes.into_inner())
}

fn limiters(value: &Value, mistakes: &Mistakes, server: &dyn Server) -> Option<Vec<Limiter>> {
    let document = Object::open(String::new(), value, mistakes)?.with_fields(&["limiters"]);
    if !document.has("limiters") {
        document.missing("limiters");
    }
    let limiters = document.object("limiters")?;
    let one = |(name, value)| {
        if let Some(flaw) = server.name_flaw(name) {
            limiters.wrong(name, flaw);
        }
        let object = Object::open(limiters.path_of(name), value, mistakes)?;
        Some(limiter(name, &object.with_fields(&LIMITER), server))
    };
    Some(limiters.entries().filter_map(one).collect())
}

fn limiter(name: &str, object: &Object<'_>, server: &dyn Server) -> Limiter {
    let default = if server.has_memory() { "memory" } else { "durable" };
    let storage = object.read("storage", |value| word(value, &["memory", "durable"]));
    let storage = storage.unwrap_or(default);
    let default = if storage == "durable" { "refund" } else { "keep" };
    let on_rollback = object.read("on_rollback", |value| word(value, &["keep", "refund"]));
    let on_rollback = on_rollback.unwrap_or(default);
    if (storage, on_rollback) == ("durable", "keep") {
        object.wrong(
            "on_rollback",
            "What is durable is undone with its transaction: only refund can be.",
        );
    }
    if !["rates", "rules", "max_concurrent"].iter().any(|field| object.has(field)) {
        object.whole("It would limit nothing: it needs rates, rules or max_concurrent.");
    }
    let mode = object.read("mode", |value| word(value, &["enforce", "shadow", "off"]));
    let ban = object.object("ban").map(|ban| ban.with_fields(&BAN));
    let ban = ban.as_ref();
    for field in ["after", "within"] {
        if let Some(ban) = ban.filter(|ban| !ban.has(field)) {
            ban.missing(field);
        }
    }
    let rules = rules(object, server).unwrap_or_default();
    let overrides = object.object("overrides");
    let overrides = overrides.map(|o| self::overrides(&o, rules.first(), server));
    let limiter = Limiter {
        name: name.to_owned(),
        description: object.read("description", text).map(str::to_owned),
        storage: storage.to_owned(),
        on_rollback: on_rollback.to_owned(),
        mode: mode.unwrap_or("enforce").to_owned(),
        max_concurrent: object.read("max_concurrent", |value| integer(value, 0)),
        wait_timeout: object.read("wait_timeout", |value| length(value, 0, server)),
        ban_after: ban.and_then(|ban| ban.read("after", |value| integer(value, 1))),
        ban_within: ban.and_then(|ban| ban.read("within", |value| length(value, 1, server))),
        ban_for: ban.and_then(|ban| ban.read("for", |value| length(value, 1, server))),
        rules,
        overrides: overrides.unwrap_or_default(),
    };
    if let (Some(ban), Some((field, flaw))) = (ban, ban_flaw(&limiter)) {
        ban.wrong(field, flaw);
    }
    limiter
}

/// Denials are counted by a sliding log.
fn ban_flaw(limiter: &Limiter) -> Option<(&'static str, String)> {
    let (after, Text(within)) = (limiter.ban_after?, limiter.ban_within?);
    let spec = RateSpec {
        algorithm: Algorithm::SlidingLog,
        quota: after.unsigned_abs().into(),
        period: Period::Span(within.length().try_into().unwrap_or(i64::MAX)),
        burst: None,
        refill: Refill::Continuous,
        anchor: Anchor::Clock,
    };
    match spec.rule().err()? {
        RuleError::Log => Some(("after", format!("At most {MAX_LOG} denials can be counted."))),
        error => Some(("within", error.to_string())),
    }
}

/// The overrides of a limiter. One that has expired is as good as none: the tables lose it some day, too.
fn overrides(
    object: &Object<'_>,
    rule: Option<&Rule>,
    server: &dyn Server,
) -> BTreeMap<String, Override> {
    let one = |(key, _): (&str, _)| {
        let object = object.object(key)?.with_fields(&OVERRIDE);
        let action = action(&object)?;
        let expires_at = object.read("expires_at", |value| Moment::parse(text(value)?));
        let found = Override {
            action: action.to_owned(),
            quota: object.read("quota", |value| quota(value, 0)),
            burst: object.read("burst", |value| quota(value, 1)),
            expires_at: expires_at.filter(|time| *time != Moment::NEVER),
            reason: object.read("reason", text).map(str::to_owned),
        };
        if let (Some(rule), Some(quota)) = (rule, found.quota) {
            if let Err(error) = limited(rule, quota, found.burst) {
                object.wrong(field_of(error), error);
            }
        }
        let holds = found.expires_at.is_none_or(|time| time > server.now());
        holds.then(|| (key.to_owned(), found))
    };
    object.entries().filter_map(one).collect()
}

/// The first rule with what a key has in place of its quota and burst. Nothing of a burst is left where nothing refills it.
pub fn limited(rule: &Rule, quota: u64, burst: Option<u64>) -> Result<(), RuleError> {
    let burst = burst.or(rule.spec.burst).filter(|_| quota > 0);
    RateSpec { quota, burst, ..rule.spec }.rule().map(|_| ())
}

/// The field that a rule is wrong in.
fn field_of(error: RuleError) -> &'static str {
    match error {
        RuleError::Burst | RuleError::BurstWithWindow | RuleError::BurstWithoutQuota => "burst",
        RuleError::PeriodTooShort | RuleError::PeriodTooLong | RuleError::Months => "period",
        _ => "quota",
    }
}

/// What an override does, with what that needs.
fn action(object: &Object<'_>) -> Option<&'static str> {
    if !object.has("action") {
        object.missing("action");
    }
    let action = object.read("action", |value| word(value, &["allow", "deny", "limit"]))?;
    if action == "limit" && !object.has("quota") {
        object.missing("quota");
    }
    if action != "limit" {
        for field in ["quota", "burst"].into_iter().filter(|f| object.has(f)) {
            object.wrong(field, "Only the action \"limit\" has it.");
        }
    } else if object.has("burst") && object.get("quota") == Some(&Value::from(0)) {
        object.wrong("burst", RuleError::BurstWithoutQuota);
    }
    Some(action)
}

/// An interval of so many microseconds at least.
fn length(value: &Value, least: i128, server: &dyn Server) -> Result<Text, String> {
    let interval = interval::parse(text(value)?)?;
    if interval == interval::INFINITY && !server.has_infinite_intervals() {
        return Err("Before PostgreSQL 17 no interval is infinite.".to_owned());
    }
    match interval.length() {
        length if length >= least => Ok(Text(interval)),
        _ if least == 0 => Err("It must not be negative.".to_owned()),
        _ => Err("It must be positive.".to_owned()),
    }
}

/// The rules of a limiter, by `rates` or by `rules`.
fn rules(object: &Object<'_>, server: &dyn Server) -> Option<Vec<Rule>> {
    if object.has("rules") {
        for field in ["rates", "algorithm", "time_zone"].into_iter().filter(|f| object.has(f)) {
            object.wrong(field, "Where there are rules, each has its own.");
        }
        return several(object, server);
    }
    if !object.has("rates") {
        for field in ["algorithm", "time_zone"].into_iter().filter(|f| object.has(f)) {
            object.wrong(field, "There are no rates that it could be for.");
        }
        return None;
    }
    let algorithm = algorithm(object)?;
    let time_zone = time_zone(object, algorithm, server);
    let specs = object.read("rates", |value| rate(value, algorithm))?;
    let rules: Vec<_> = (1..).zip(specs).map(|(n, spec)| Rule::new(n, spec, &time_zone)).collect();
    if let Some((_, error)) = contradiction(&rules) {
        object.wrong("rates", error);
    }
    Some(rules)
}

fn several(object: &Object<'_>, server: &dyn Server) -> Option<Vec<Rule>> {
    let objects = object.objects("rules")?;
    if objects.len() > MAX_RULES {
        object.wrong("rules", "A limiter has at most 100 rules.");
    }
    let objects: Vec<_> = objects.into_iter().map(|rule| rule.with_fields(&RULE)).collect();
    let rules = (1..).zip(&objects).map(|(n, object)| rule(n, object, server));
    // All are looked at, also after a wrong one.
    let rules: Vec<_> = rules.collect();
    let rules = rules.into_iter().collect::<Option<Vec<_>>>()?;
    if let Some((n, error)) = contradiction(&rules) {
        objects.get(n)?.whole(error);
    }
    Some(rules)
}

/// The first rule that contradicts one before it.
fn contradiction(rules: &[Rule]) -> Option<(usize, RuleError)> {
    let specs: Vec<_> = rules.iter().map(|rule| rule.spec).collect();
    let upto = |n: usize| check_together(specs.get(..=n)?).err().map(|error| (n, error));
    (0..specs.len().min(MAX_RULES)).find_map(upto)
}

fn rule(position: i32, object: &Object<'_>, server: &dyn Server) -> Option<Rule> {
    let algorithm = algorithm(object)?;
    let time_zone = time_zone(object, algorithm, server);
    let refill = object.read("refill", |value| {
        let refill = named(&REFILLS, word(value, &REFILLS.map(|(name, _)| name))?);
        let refill = refill.unwrap_or_default();
        match (refill, algorithm) {
            (Refill::Continuous, _) | (_, Algorithm::TokenBucket) => Ok(refill),
            _ => Err(RuleError::RefillWithWindow.to_string()),
        }
    });
    let anchor = object.read("anchor", |value| {
        let anchor = named(&ANCHORS, word(value, &ANCHORS.map(|(name, _)| name))?);
        let anchor = anchor.unwrap_or_default();
        match (anchor, algorithm) {
            ((Anchor::Clock, false), _) | (_, Algorithm::FixedWindow) => Ok(anchor),
            _ => Err(RuleError::AnchorWithoutWindow.to_string()),
        }
    });
    let (anchor, weeks_are_days) = anchor.unwrap_or_default();
    let mut spec = if object.has("rate") {
        for field in ["quota", "period", "burst"].into_iter().filter(|f| object.has(f)) {
            object.wrong(field, "The rate says it.");
        }
        match object.read("rate", |value| rate(value, algorithm))?[..] {
            [spec] => spec,
            _ => {
                object.wrong("rate", "A rule has one rate.");
                return None;
            }
        }
    } else {
        by_columns(object, algorithm, weeks_are_days)?
    };
    if let (Period::Weeks(n), true) = (spec.period, weeks_are_days) {
        spec.period = Period::Days(n.saturating_mul(7));
    }
    (spec.refill, spec.anchor) = (refill.unwrap_or_default(), anchor);
    Some(Rule::new(position, spec, &time_zone))
}

/// A rule that says its quota, period and burst one by one: so can be said what no rate says.
fn by_columns(object: &Object<'_>, algorithm: Algorithm, weeks_are_days: bool) -> Option<RateSpec> {
    if !object.has("quota") && !object.has("period") {
        object.missing("rate");
        return None;
    }
    for field in ["quota", "period"].into_iter().filter(|f| !object.has(f)) {
        object.missing(field);
    }
    let period = object.read("period", |value| {
        let interval: Interval = interval::parse(text(value)?)?;
        interval.period_of(algorithm, weeks_are_days).map_err(str::to_owned)
    });
    let burst = object.read("burst", |value| quota(value, 1));
    let quota = object.read("quota", |value| quota(value, 0));
    let spec = RateSpec {
        algorithm,
        quota: quota?,
        period: period?,
        burst,
        refill: Refill::Continuous,
        anchor: Anchor::Clock,
    };
    let flaw = spec.rule().err();
    if let Some(error) = flaw {
        object.wrong(field_of(error), error);
    }
    flaw.is_none().then_some(spec)
}

/// The rules of a rate string.
fn rate(value: &Value, algorithm: Algorithm) -> Result<Vec<RateSpec>, String> {
    let text = text(value)?;
    parse_rates(text, algorithm).map_err(|error| {
        let (position, detail) = (error.position, error.detail);
        format!("Invalid rate \"{}\" at character {position}: {detail}", shown(text))
    })
}

fn algorithm(object: &Object<'_>) -> Option<Algorithm> {
    if !object.has("algorithm") {
        return Some(Algorithm::default());
    }
    let names = Algorithm::NAMES.map(|(name, _)| name);
    object.read("algorithm", |value| word(value, &names)).and_then(Algorithm::from_name)
}

fn time_zone(object: &Object<'_>, algorithm: Algorithm, server: &dyn Server) -> String {
    let zone = object.read("time_zone", |value| {
        let zone = text(value)?;
        if zone.eq_ignore_ascii_case(UTC) {
            Ok(UTC)
        } else if !server.knows_time_zone(zone) {
            Err(format!("There is no time zone \"{}\"; see pg_timezone_names.", shown(zone)))
        } else if algorithm != Algorithm::FixedWindow {
            Err(RuleError::TimeZoneWithoutWindow.to_string())
        } else {
            Ok(zone)
        }
    });
    zone.unwrap_or(UTC).to_owned()
}
