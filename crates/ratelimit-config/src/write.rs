//! Limiters as the document: as short as it can be, and always in the same words.

use ratelimit_core::{print_rate, Algorithm, Anchor, Refill};
use serde_json::{json, Map, Value};

use crate::interval;
use crate::limiter::{Limiter, Override, Rule, UTC};
use crate::Server;

/// The document that defines these limiters, without what it would mean anyway.
pub fn write(limiters: &[Limiter], server: &dyn Server) -> Value {
    let limiters = limiters.iter().map(|l| (l.name.clone(), limiter(l, server)));
    json!({ "limiters": limiters.collect::<Map<_, _>>() })
}

fn limiter(limiter: &Limiter, server: &dyn Server) -> Value {
    let mut fields = rules(&limiter.rules, limiter.max_concurrent.is_none());
    let mut put = |name: &str, value: Option<Value>| {
        fields.extend(value.map(|value| (name.to_owned(), value)));
    };
    let unless = |value: &str, default: &str| (value != default).then(|| json!(value));
    // Durable may be the default here and not on another server.
    let default = if server.has_memory() { "memory" } else { "" };
    put("description", limiter.description.as_ref().map(|text| json!(text)));
    put("storage", unless(&limiter.storage, default));
    let default = if limiter.storage == "durable" { "refund" } else { "keep" };
    put("on_rollback", unless(&limiter.on_rollback, default));
    put("mode", unless(&limiter.mode, "enforce"));
    put("max_concurrent", limiter.max_concurrent.map(|most| json!(most)));
    put("wait_timeout", limiter.wait_timeout.map(|time| json!(time)));
    if let (Some(after), Some(within)) = (limiter.ban_after, limiter.ban_within) {
        let mut ban = json!({ "after": after, "within": within });
        if let (Some(ban), Some(time)) = (ban.as_object_mut(), limiter.ban_for) {
            ban.insert("for".to_owned(), json!(time));
        }
        put("ban", Some(ban));
    }
    let overrides = limiter.overrides.iter().map(|(key, o)| (key.clone(), without_nulls(o)));
    let overrides: Map<_, _> = overrides.collect();
    put("overrides", (!overrides.is_empty()).then_some(Value::Object(overrides)));
    Value::Object(fields)
}

/// An override, without the columns that are null.
fn without_nulls(found: &Override) -> Value {
    let mut fields = json!(found);
    if let Some(fields) = fields.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    fields
}

/// The rules as one string of rates where that says it all; there must be something to read.
fn rules(rules: &[Rule], required: bool) -> Map<String, Value> {
    let first = rules.first().map(|rule| (rule.spec.algorithm, &rule.time_zone));
    let rates: Option<Vec<_>> = rules
        .iter()
        .map(|rule| {
            let alike = Some((rule.spec.algorithm, &rule.time_zone)) == first;
            let plain = rule.spec.refill == Refill::Continuous && rule.spec.anchor == Anchor::Clock;
            print_rate(&rule.spec).filter(|_| alike && plain)
        })
        .collect();
    let mut fields = Map::new();
    match (first, rates) {
        (Some((algorithm, time_zone)), Some(rates)) => {
            fields.insert("rates".to_owned(), json!(rates.join(", ")));
            how(&mut fields, algorithm, time_zone);
        }
        (None, _) if !required => {}
        _ => {
            let rules: Vec<_> = rules.iter().map(rule).collect();
            fields.insert("rules".to_owned(), json!(rules));
        }
    }
    fields
}

fn rule(Rule { spec, time_zone, .. }: &Rule) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    if let Some(rate) = print_rate(spec) {
        put("rate", json!(rate));
    } else {
        put("quota", json!(spec.quota));
        put("period", json!(interval::print(spec.period.into())));
        if let Some(burst) = spec.burst {
            put("burst", json!(burst));
        }
    }
    if spec.refill == Refill::Interval {
        put("refill", json!("interval"));
    }
    if spec.anchor == Anchor::FirstHit {
        put("anchor", json!("first_hit"));
    }
    how(&mut fields, spec.algorithm, time_zone);
    fields
}

/// The fields that both forms have.
fn how(fields: &mut Map<String, Value>, algorithm: Algorithm, time_zone: &str) {
    if algorithm != Algorithm::default() {
        fields.insert("algorithm".to_owned(), json!(algorithm.name()));
    }
    if time_zone != UTC {
        fields.insert("time_zone".to_owned(), json!(time_zone));
    }
}
