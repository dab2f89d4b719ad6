//! No setting that a role can change, and no row security, changes a verdict.

use anyhow::{ensure, Context, Result};
use postgres::Client;

use super::ask::{ensure_code, Ask, AGE};
use super::Test;
use crate::bed::Bed;

pub const TESTS: &[Test] = &[
    ("settings_have_the_contexts_of_the_contract", contexts),
    ("no_setting_of_a_role_changes_a_verdict", no_setting),
    ("row_security_changes_no_verdict", row_security),
];

/// Who can change the settings, and when.
const CONTEXTS: &[(&str, &str)] = &[
    ("ratelimit.enabled", "superuser"),
    ("ratelimit.max_keys", "postmaster"),
    ("ratelimit.max_slots", "postmaster"),
    ("ratelimit.on_full", "superuser"),
    ("ratelimit.partitions", "postmaster"),
    ("ratelimit.purge_batch_size", "sighup"),
    ("ratelimit.purge_interval", "sighup"),
    ("ratelimit.save_interval", "sighup"),
];

/// Limiters, and sorts of keys: all that can decide.
const LIMITERS: &[(&str, &str)] = &[
    ("bucket", "key"),
    ("bucket", "vip"),
    ("bucket", "guest"),
    ("bucket", "foe"),
    ("bucket", "former foe"),
    ("bucket", "banned"),
    ("calendar", "key"),
    ("log", "key"),
    ("paid", "key"),
    ("paid", "guest"),
    ("paid", "banned"),
];

/// How often a key is asked: more than its quota.
const CALLS: usize = 3;

/// Makes the limiters, for keys numbered from 0 to `keys`.
fn set_up(admin: &mut Client, keys: usize) -> Result<()> {
    Ok(admin.batch_execute(&format!(
        "SELECT rl_create_limiter('bucket', '2 per {AGE}'), rl_create_limiter('log', '2 per {AGE}', 'sliding_log'),
                rl_create_limiter('calendar', '2 per 100 years', 'fixed_window', time_zone => 'Europe/Berlin'),
                rl_create_limiter('paid', '2 per {AGE}', storage => 'durable');
         INSERT INTO rl_overrides (limiter, key, action, quota, expires_at)
         SELECT limiter, key || ' ' || n, action, quota, expires_at::timestamptz
           FROM (VALUES ('bucket', 'vip', 'allow', NULL, '2099-01-01 UTC'), ('bucket', 'guest', 'limit', 1, '2099-01-01 UTC'),
                        ('paid', 'guest', 'limit', 1, NULL), ('bucket', 'foe', 'deny', NULL, '2099-01-01 UTC'),
                        ('bucket', 'former foe', 'deny', NULL, '2020-01-01 UTC')) AS o (limiter, key, action, quota, expires_at),
                generate_series(0, {keys}) AS n;
         SELECT rl_ban(limiter, 'banned ' || n, '{AGE}') FROM (VALUES ('bucket'), ('paid')) AS l (limiter), generate_series(0, {keys}) AS n"
    ))?)
}

/// What all limiters answer to keys of this number; where the calendar or an override says until when, with the hour of that.
fn verdicts(session: &mut Client, number: usize) -> Result<Vec<String>> {
    let mut verdicts = Vec::new();
    for (limiter, key) in LIMITERS {
        let until = if *limiter == "calendar" || *key == "foe" {
            "pg_catalog.round((extract(epoch FROM pg_catalog.clock_timestamp()) + extract(epoch FROM reset_after)) / 3600)"
        } else {
            "retry_after > '1 day'"
        };
        for _ in 0..CALLS {
            let verdict: String = session.ask(&format!(
                "SELECT pg_catalog.concat_ws(' ', allowed, quota, remaining, reason, {until}) FROM public.rl_check('{limiter}', '{key} {number}')"
            ))?;
            verdicts.push(format!("{limiter} {key}: {verdict}"));
        }
    }
    Ok(verdicts)
}

fn contexts(bed: &Bed) -> Result<()> {
    let database = bed.database("setting_contexts")?;
    let mut admin = database.connect()?;
    admin.batch_execute(
        "CREATE ROLE setting_contexts LOGIN; SELECT rl_grant_admin('setting_contexts')",
    )?;
    let mut session = database.connect_as("setting_contexts")?;
    let found: Vec<String> = admin.ask(
        "SELECT array_agg(name || ' ' || context ORDER BY name COLLATE \"C\") FROM pg_settings WHERE name LIKE 'ratelimit.%'",
    )?;
    let expected: Vec<_> =
        CONTEXTS.iter().map(|(name, context)| format!("{name} {context}")).collect();
    ensure!(found == expected, "{found:?}");
    for (name, context) in CONTEXTS {
        let value: String = session.ask(&format!("SELECT current_setting('{name}')"))?;
        // Those of the server can be set in no session, whoever's.
        let code = if *context == "superuser" { "42501" } else { "55P02" };
        ensure_code(&session.refused(&format!("SET {name} = '{value}'"))?, code).context(*name)?;
        for (place, code) in [
            ("ROLE setting_contexts", code),
            ("DATABASE setting_contexts", "42501"),
            ("SYSTEM", "42501"),
        ] {
            let statement = format!("ALTER {place} SET {name} = '{value}'");
            ensure_code(&session.refused(&statement)?, code).context(statement)?;
        }
    }
    Ok(())
}

/// Settings whose values the server cannot list.
const OTHERS: &[&str] = &[
    "TimeZone = 'Pacific/Kiritimati'",
    "TimeZone = '-12:34:56'",
    "DateStyle = 'German, DMY'",
    "DateStyle = 'SQL, YMD'",
    "timezone_abbreviations = 'India'",
    "search_path = ''",
    "search_path = pg_temp, pg_catalog, public",
    "role = verdicts_other",
    "lc_time = 'C'",
    "lc_numeric = 'C'",
    "default_text_search_config = 'german'",
    "application_name = 'ratelimit worker'",
    "restrict_nonsystem_relation_kind = 'view, foreign-table'",
];

fn no_setting(bed: &Bed) -> Result<()> {
    let database = bed.database("verdicts")?;
    let mut admin = database.connect()?;
    admin.batch_execute(
        "CREATE ROLE verdicts LOGIN; CREATE ROLE verdicts_other; GRANT verdicts_other TO verdicts;
         SELECT rl_grant_usage('verdicts'), rl_grant_usage('verdicts_other')",
    )?;
    let mut session = database.connect_as("verdicts")?;
    // Each value of those that have few, the ends of the others. Durable limits are refused where nothing may be written.
    let mut settings: Vec<String> = session.ask(
        "SELECT array_agg(format('%I = %L', name, value) ORDER BY name, value)
           FROM pg_settings,
                unnest(CASE vartype WHEN 'bool' THEN '{on,off}' WHEN 'enum' THEN enumvals ELSE ARRAY[min_val, max_val] END) AS value
          WHERE context = 'user' AND vartype <> 'string' AND value <> setting AND name !~ 'read_only$'",
    )?;
    settings.extend(OTHERS.iter().map(|&setting| setting.to_owned()));
    set_up(&mut admin, settings.len())?;
    let expected = verdicts(&mut session, 0)?;
    ensure!(
        expected.iter().any(|v| v.contains(": t")) && expected.iter().any(|v| v.contains("rate"))
    );
    let mut set = 0;
    for (setting, number) in settings.iter().zip(1..) {
        // Some values are not for this build or this machine.
        if session.batch_execute(&format!("SET {setting}")).is_err() {
            session.settle();
            continue;
        }
        set += 1;
        let found = verdicts(&mut session, number).with_context(|| setting.clone())?;
        ensure!(found == expected, "{setting}: {found:#?} instead of {expected:#?}");
        session.batch_execute("RESET ROLE; RESET ALL")?;
    }
    ensure!(set > 150 && set + 20 > settings.len(), "only {set} of {} were set", settings.len());
    Ok(())
}

fn row_security(bed: &Bed) -> Result<()> {
    let database = bed.database("verdicts_rows")?;
    let mut admin = database.connect()?;
    // An owner who is no superuser is under row security, where it is forced.
    admin.batch_execute(
        "CREATE ROLE verdicts_owner SUPERUSER; DROP EXTENSION ratelimit; SET ROLE verdicts_owner; CREATE EXTENSION ratelimit;
         RESET ROLE; CREATE ROLE verdicts_rows LOGIN; SELECT rl_grant_usage('verdicts_rows')",
    )?;
    set_up(&mut admin, 2)?;
    let mut session = database.connect_as("verdicts_rows")?;
    let expected = verdicts(&mut session, 1)?;
    admin.batch_execute(
        "ALTER ROLE verdicts_owner NOSUPERUSER;
         DO $$
         DECLARE
             relation regclass;
         BEGIN
             FOR relation IN SELECT oid FROM pg_class WHERE relname LIKE 'rl\\_%' AND relkind = 'r' LOOP
                 EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', relation);
             END LOOP;
         END
         $$",
    )?;
    for mut session in [session, database.connect_as("verdicts_rows")?] {
        for setting in ["on", "off"] {
            session.batch_execute(&format!("SET row_security = {setting}"))?;
            let found = verdicts(&mut session, 2)?;
            ensure!(found == expected, "{found:#?} instead of {expected:#?}");
            admin.batch_execute("SELECT rl_reset(l, k || ' 2') FROM unnest('{bucket,calendar,log,paid}'::text[]) AS l, unnest('{key,vip,guest,foe,former foe,banned}'::text[]) AS k")?;
        }
    }
    Ok(())
}
