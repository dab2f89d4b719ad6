//! `rl_http_headers`: a key's standing in the words of HTTP.
//!
//! `RateLimit-Policy` and `RateLimit` as in draft-ietf-httpapi-ratelimit-headers-11; `X-RateLimit-*` as most services write them,
//! with the reset in seconds from now.

use pgrx::{pg_sys::Datum, IntoDatum, JsonB};
use ratelimit_core::{Micros, SECOND};
use serde_json::{json, Map, Value};

use crate::function::pg_function;
use crate::store::Store;

pg_function! {
    /// The headers for a response to this key. Looks with a cost of 1 and takes nothing.
    fn rl_http_headers(call) {
        let (limiter, key) = (call.text(0, "limiter")?, call.text(1, "key")?);
        let store = Store::new(call)?;
        let limiter = store.limiter(limiter)?;
        // What a call would find, not what it would leave.
        let verdict = store.verdict(&limiter, key)?;
        let (standing, next) = store.standing(&limiter, &verdict, key)?;

        let policies: Vec<_> = verdict.rules(&limiter).map(|rule| rule.policy()).collect();
        let names: Vec<_> = (1..=policies.len())
            .map(|n| if policies.len() == 1 { quoted(&limiter.name) } else { quoted(&format!("{}.{n}", limiter.name)) })
            .collect();
        let policy: Vec<_> = names
            .iter()
            .zip(&policies)
            .map(|(name, (quota, window))| format!("{name};q={quota};w={window}"))
            .collect();
        let remaining = standing.remaining;
        // A ban may have no end.
        let reset = (standing.reset_after != Micros::MAX).then(|| seconds(standing.reset_after));
        let mut headers = Map::new();
        let mut set = |name: &str, value: String| headers.insert(name.into(), json!(value));
        let is_limited = standing.quota != u64::MAX;
        if policy.is_empty() && is_limited {
            set("X-RateLimit-Limit", standing.quota.to_string());
            set("X-RateLimit-Remaining", remaining.to_string());
        }
        if !policy.is_empty() {
            set("RateLimit-Policy", policy.join(", "));
        }
        if is_limited && !policies.is_empty() {
            let name = names.get(standing.binding).map_or("", String::as_str);
            let time = reset.map_or_else(String::new, |reset| format!(";t={reset}"));
            set("RateLimit", format!("{name};r={remaining}{time}"));
            set("X-RateLimit-Limit", standing.quota.to_string());
            set("X-RateLimit-Remaining", remaining.to_string());
            reset.map(|reset| set("X-RateLimit-Reset", reset.to_string()));
        }
        if let (false, Some(wait)) = (next.allowed, next.retry_after) {
            set("Retry-After", seconds(wait).max(1).to_string());
        }
        Ok(JsonB(Value::Object(headers)).into_datum().unwrap_or(Datum::null()))
    }
}

/// Whole seconds, rounded up: who waits them has waited long enough.
fn seconds(span: Micros) -> Micros {
    span / SECOND + Micros::from(span % SECOND > 0)
}

/// A string of RFC 9651: printable ASCII. What is not becomes a percent code.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' if byte != b'%' => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("%{byte:02X}")),
        }
    }
    quoted + "\""
}
