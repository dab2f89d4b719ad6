//! The functions of the extension as its catalog entries say, and calls of each of them, so that no test about all of them can forget one.

use std::collections::BTreeSet;

use anyhow::{ensure, Result};
use postgres::{Client, SimpleQueryMessage};

use super::ask::Ask;

/// The members of the extension of a catalog, as `d.objid`.
pub fn members(catalog: &str) -> String {
    format!(
        "pg_depend AS d
          JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'ratelimit'
         WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND d.classid = '{catalog}'::regclass"
    )
}

/// What `SETUP` prepares, asked in an order that works. Each function is here, but for internal ones and triggers.
pub const CALLS: &[(&str, &[&str])] = &[
    ("rl_create_limiter", &["'new', '5/s, 100 per day', 'fixed_window', time_zone => 'Europe/Berlin', ban_after => 2, ban_within => '1 s'"]),
    ("rl_clone_limiter", &["'new', 'copy'", "'paid', 'copy 2', '7 per hour'"]),
    ("rl_drop_limiter", &["'new'", "'copy'", "'copy 2'"]),
    ("rl_export_config", &[""]),
    // All that it can do: to create, to change, to drop, and overrides.
    (
        "rl_apply_config",
        &[
            r#"'{"limiters": {"doc": {"rates": "5/s", "overrides": {"k": {"action": "deny"}, "l": {"action": "limit", "quota": 3}}}}}'"#,
            r#"'{"limiters": {"doc": {"rates": "5/s, 6/min", "mode": "shadow", "overrides": {"l": {"action": "allow"}}}}}', false, true"#,
            r#"'{"limiters": {"doc": {"rates": "5/s, 6/min", "mode": "shadow", "overrides": {"l": {"action": "allow"}}}}}'"#,
            r#"'{"limiters": {"api": {"rates": "100/day"}, "jobs": {"max_concurrent": 9},
                 "paid": {"rates": "100/day", "storage": "durable"}, "seats": {"storage": "durable", "max_concurrent": 9}}}', true"#,
        ],
    ),
    ("rl_try_acquire", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_check", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_peek", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_acquire", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_reserve", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_enforce", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_take", &["'api', 'k', 2", "'paid', 'k', 2"]),
    ("rl_refund", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_penalize", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_check_all", &["'{api,paid}', '{k,k}'"]),
    ("rl_try_acquire_many", &["'api', '{k,l}'", "'paid', '{k,l}'"]),
    ("rl_sliding_check", &["'k', 10, '1 day'"]),
    ("rl_throttle", &["'k', 10, '1 day'"]),
    ("rl_http_headers", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_simulate", &["'5/s', '{2024-01-01}'"]),
    ("rl_try_slot", &["'jobs', 'k'", "'seats', 'k'"]),
    ("rl_slot", &["'jobs', 'k'"]),
    ("rl_try_session_slot", &["'jobs', 'k'"]),
    ("rl_session_slot", &["'jobs', 'k'"]),
    ("rl_release_session_slot", &["'jobs', 'k'", "'jobs', 'k'"]),
    ("rl_try_lease", &["'jobs', 'k', '1 s'", "'seats', 'k', '1 s'"]),
    ("rl_lease", &["'jobs', 'k', '1 s'", "'seats', 'k', '1 s'"]),
    ("rl_renew_lease", &["'00000000-0000-0000-0000-000000000000', '1 s'"]),
    ("rl_release_lease", &["'00000000-0000-0000-0000-000000000000'"]),
    ("rl_ban", &["'api', 'foe', '1 hour', 'abuse'", "'paid', 'foe', NULL", "'paid', 'foe', '1 hour'"]),
    ("rl_stat_keys", &["'api'"]),
    ("rl_unban", &["'api', 'foe'", "'paid', 'foe'"]),
    ("rl_reset", &["'api', 'k'", "'paid', 'k'"]),
    ("rl_reset_all", &["'api'", "'paid'"]),
    ("rl_purge", &[""]),
    ("rl_info", &[""]),
    ("rl_stat_reset", &[""]),
    ("rl_grant_usage", &["'pg_monitor'"]),
    ("rl_grant_admin", &["'pg_monitor'"]),
];

/// Creates the limiters of `CALLS` in the schema.
pub fn set_up(session: &mut Client, schema: &str) -> Result<()> {
    Ok(session.batch_execute(&format!(
        "SELECT {schema}.rl_create_limiter('api', '100 per day'), {schema}.rl_create_limiter('jobs', max_concurrent => 9),
                {schema}.rl_create_limiter('paid', '100 per day', storage => 'durable'),
                {schema}.rl_create_limiter('seats', storage => 'durable', max_concurrent => 9)"
    ))?)
}

/// The calls of the functions that `includes`; all are called if it always says so.
pub fn calls(schema: &str, mut includes: impl FnMut(&str) -> bool) -> Vec<String> {
    let included = CALLS.iter().filter(|(name, _)| includes(name));
    included
        .flat_map(|(name, calls)| {
            calls.iter().map(move |call| format!("SELECT {schema}.{name}({call})"))
        })
        .collect()
}

/// Checks that `CALLS` has every function that can be called by SQL.
pub fn ensure_every_function(admin: &mut Client) -> Result<()> {
    let there: Vec<String> = admin.ask(&format!(
        "SELECT array_agg(proname::text) FROM pg_proc
          WHERE oid IN (SELECT d.objid FROM {}) AND left(proname, 1) <> '_' AND prorettype <> 'trigger'::regtype",
        members("pg_proc")
    ))?;
    let there: BTreeSet<_> = there.iter().map(String::as_str).collect();
    let listed: BTreeSet<_> = CALLS.iter().map(|(name, _)| *name).collect();
    let other: Vec<_> = there.symmetric_difference(&listed).collect();
    ensure!(other.is_empty(), "only in the catalog, or only in CALLS: {other:?}");
    Ok(())
}

/// All that a client sees of a call: rows, or the error with all its parts.
pub fn answer(session: &mut Client, statement: &str) -> String {
    match session.simple_query(statement) {
        Ok(messages) => messages.iter().map(|message| text(message) + "\n").collect(),
        Err(error) => {
            session.settle();
            format!("{error:?}")
        }
    }
}

fn text(message: &SimpleQueryMessage) -> String {
    match message {
        SimpleQueryMessage::Row(row) => {
            (0..row.len()).map(|n| row.get(n).unwrap_or("").to_owned() + "|").collect()
        }
        _ => String::new(),
    }
}
