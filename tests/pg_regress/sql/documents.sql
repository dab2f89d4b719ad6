-- All definitions as one document.
\pset format unaligned
\pset tuples_only on
SET timezone = 'Asia/Kathmandu';
SET intervalstyle = 'iso_8601';
SELECT * FROM rl_apply_config('{"limiters": {
    "api":     {"rates": "100/minute"},
    "search":  {"rates": "10/second burst 20; 1000/hour", "description": "the search page", "wait_timeout": "30 s"},
    "billing": {"rates": "10000 per 100 years", "algorithm": "fixed_window", "time_zone": "Europe/Berlin", "storage": "durable"},
    "export":  {"max_concurrent": 5},
    "trial":   {"rules": [{"rate": "5/s burst 9", "refill": "interval"},
                          {"rate": "9 per 7 days", "algorithm": "fixed_window"},
                          {"rate": "8 per week", "algorithm": "fixed_window", "anchor": "first_hit", "time_zone": "Asia/Tokyo"}]},
    "login":   {"rates": "5 per 5 minutes", "algorithm": "sliding_log", "on_rollback": "keep",
                "overrides": {"user:1": {"action": "deny", "expires_at": "2100-01-01T00:00:00Z", "reason": "abuse"},
                              "user:2": {"action": "limit", "quota": 10},
                              "user:3": {"action": "allow", "expires_at": "294276-12-31T12:00:00Z"},
                              "user:4": {"action": "deny", "expires_at": "2020-01-01T00:00:00Z"}}}}}');
SELECT jsonb_pretty(rl_export_config());
RESET timezone;
RESET intervalstyle;
SELECT name, description, storage, on_rollback, mode, max_concurrent, wait_timeout FROM rl_limiters ORDER BY name;
SELECT * FROM rl_rules ORDER BY limiter, position;
SELECT * FROM rl_overrides ORDER BY limiter, key;

-- Again, it does nothing; what it gave back does nothing, either.
CREATE TEMP TABLE document AS SELECT rl_export_config() AS config;
BEGIN;
SELECT count(*) FROM document, rl_apply_config(config, prune => true);
SELECT pg_current_xact_id_if_assigned() IS NULL AS nothing_written;
COMMIT;

-- What differs is changed, and keys keep what they have used.
SELECT rl_take('billing', 'key', 1000);
CREATE TEMP TABLE other AS SELECT '{"limiters": {
    "api":     {"rates": "100 per minute", "description": "for all"},
    "billing": {"rates": "20000 per 100 years, 100 per year", "algorithm": "fixed_window", "time_zone": "Europe/Berlin", "storage": "durable"},
    "search":  {"rates": "10 per second burst 20"},
    "new":     {"rates": "1 per hour"}}}'::jsonb AS config;
SELECT action, limiter FROM other, rl_apply_config(config, prune => true, dry_run => true);
SELECT rl_export_config() = config FROM document;
SELECT action, limiter FROM other, rl_apply_config(config);
SELECT quota, remaining FROM rl_peek('billing', 'key', 0);
UPDATE rl_rules SET quota = 30000 WHERE limiter = 'billing' AND position = 2;
SELECT quota, remaining FROM rl_peek('billing', 'key', 0);
SELECT limiter, position, quota, period FROM rl_rules WHERE limiter IN ('billing', 'search', 'new') ORDER BY limiter, position;
SELECT name, description, wait_timeout FROM rl_limiters WHERE name IN ('api', 'search') ORDER BY name;

-- Overrides are a part of it; with prune, nothing stays that is not in it.
INSERT INTO rl_overrides (limiter, key, action) VALUES ('login', 'by hand', 'allow'), ('api', 'by hand', 'deny');
SELECT action, limiter FROM document, rl_apply_config(jsonb_set(config, '{limiters,login,overrides}', '{"user:1": {"action": "allow"}}'), prune => true);
SELECT limiter, key, action, expires_at, reason FROM rl_overrides ORDER BY limiter, key;
SELECT * FROM rl_apply_config('{"limiters": {}}');
SELECT * FROM rl_apply_config('{"limiters": {}}', prune => true);
SELECT rl_export_config();

-- On an empty database, the document gives itself back.
SELECT count(*) FROM document, rl_apply_config(config);
SELECT rl_export_config() = config FROM document;

-- It is one transaction with anything else.
BEGIN;
SELECT * FROM rl_apply_config('{"limiters": {"api": {"rates": "1 per day"}}}', true);
SELECT rl_export_config();
ROLLBACK;
SELECT rl_export_config() = config FROM document;

-- What rows can say, a document can say, too.
TRUNCATE rl_limiters CASCADE;
INSERT INTO rl_limiters (name, wait_timeout) VALUES ('by hand', '1 month 2 days 03:04:05.678901'), ('nothing', NULL);
INSERT INTO rl_rules (limiter, position, quota, period, burst, algorithm, anchor, time_zone) VALUES
    ('by hand', 7, 1, '1 second'::interval / 3, 2, 'token_bucket', 'clock', 'utc'),
    ('by hand', 9, 2, '14 days', NULL, 'fixed_window', 'epoch', 'UTC'),
    ('by hand', 12, 3, '14 days', NULL, 'fixed_window', 'clock', 'Europe/Berlin'),
    ('by hand', 13, 4, '336 hours', NULL, 'token_bucket', 'clock', 'UTC'),
    ('by hand', 14, 5, '24 hours', NULL, 'fixed_window', 'epoch', 'UTC'),
    ('by hand', 15, 6, '1 day', NULL, 'fixed_window', 'epoch', 'UTC');
INSERT INTO rl_overrides (limiter, key, action, expires_at) VALUES ('by hand', '', 'deny', 'infinity'), ('by hand', 'past', 'deny', '-infinity');
SELECT jsonb_pretty(rl_export_config());
SELECT * FROM rl_apply_config(rl_export_config(), prune => true);
SELECT * FROM rl_apply_config('{"limiters": {"by hand": {"rates": "5/s, 6/m", "storage": "durable"}}}');
SELECT position, quota, period, anchor FROM rl_rules ORDER BY position;

-- Rules change together with the overrides that fit them.
TRUNCATE rl_limiters CASCADE;
SELECT * FROM rl_apply_config('{"limiters": {"api": {"rates": "2 per 100 years", "algorithm": "fixed_window", "mode": "shadow",
    "ban": {"after": 20, "within": "1 minute", "for": "10 minutes"}, "overrides": {"vip": {"action": "limit", "quota": 2000}}}}}');
SELECT * FROM rl_apply_config('{"limiters": {"api": {"rates": "2 per day burst 3",
    "ban": {"after": 5, "within": "1 hour"}, "overrides": {"vip": {"action": "limit", "quota": 20, "burst": 30}}}}}');
SELECT quota FROM rl_peek('api', 'vip');
SELECT * FROM rl_apply_config('{"limiters": {"api": {"rates": "2 per 5 days", "algorithm": "sliding_log",
    "overrides": {"vip": {"action": "limit", "quota": 5}}}}}');
SELECT quota FROM rl_peek('api', 'vip');
SELECT rl_apply_config('{"limiters": {"api": {"rates": "2 per 5 days", "algorithm": "sliding_log",
    "overrides": {"vip": {"action": "limit", "quota": 2000}}}}}');
SELECT rl_export_config();

-- A wrong document changes nothing, and says where it is wrong.
\set VERBOSITY default
SELECT rl_apply_config(NULL);
SELECT rl_apply_config('{"limiters": {}}', NULL);
SELECT rl_apply_config('[]');
SELECT rl_apply_config('{"limiters": {"by hand": {"rates": "5/s"}, "new": {"rules": [{"rate": "5 per s"}, {"rate": "10 pr minute"}]}}}');
SELECT rl_apply_config('{"limiters": {"a": {"rates": "5/s", "quota": 5, "mode": "on"}, "b": {"rates": "1/d", "time_zone": "Middle/Earth", "algorithm": "fixed_window"}}}', true, true);
SELECT jsonb_pretty(rl_export_config());

-- Administrators may, others not.
CREATE ROLE documents_app;
CREATE ROLE documents_admin;
SELECT count(*) FROM rl_grant_usage('documents_app'), rl_grant_admin('documents_admin');
SET ROLE documents_app;
SELECT rl_export_config();
SELECT rl_apply_config('{"limiters": {}}', true);
SELECT _rl_definitions();
SET ROLE documents_admin;
SELECT * FROM rl_apply_config('{"limiters": {"mine": {"rates": "5/s"}}}', true);
SELECT rl_export_config();
SELECT _rl_carry_out('[]');
RESET ROLE;
DROP OWNED BY documents_app, documents_admin;
DROP ROLE documents_app, documents_admin;
