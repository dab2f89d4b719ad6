-- Keys that are always allowed, always denied, or have a limit of their own.
SELECT rl_create_limiter('api', '2 per 1000 years', 'fixed_window');
SELECT rl_create_limiter('bucket', '2 per 365000 days burst 3, 50 per 300000 days');
INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', 'friend', 'allow'), ('api', 'foe', 'deny');
INSERT INTO rl_overrides (limiter, key, action, quota) VALUES ('api', 'vip', 'limit', 5), ('bucket', 'vip', 'limit', 7);

-- Allow: unlimited, and nothing is counted.
SELECT * FROM rl_check('api', 'friend', 1000);
SELECT rl_try_acquire('api', 'friend', 1000), rl_take('api', 'friend', 1000), rl_enforce('api', 'friend', 9);
SELECT rl_penalize('api', 'friend', 9), rl_refund('api', 'friend', 9);
-- Deny, whatever the cost.
SELECT * FROM rl_check('api', 'foe');
SELECT * FROM rl_peek('api', 'foe', 0);
SELECT rl_try_acquire('api', 'foe'), rl_take('api', 'foe', 1), rl_try_acquire_many('api', '{foe,friend,other}');
SELECT rl_enforce('api', 'foe');
SELECT allowed, reason FROM rl_acquire('api', 'foe');
SELECT reserved, reason FROM rl_reserve('api', 'foe');
SELECT rl_http_headers('api', 'foe');
-- A limit of its own: the quota of the first rule, with the burst that it has.
SELECT allowed, quota, remaining FROM rl_check('api', 'vip', 4);
SELECT allowed, quota, remaining, reason FROM rl_check('api', 'vip', 4);
SELECT rl_try_acquire('api', 'vip'), rl_try_acquire('api', 'vip');
SELECT rl_http_headers('api', 'vip') - '{RateLimit,X-RateLimit-Reset,Retry-After}'::text[] AS headers;
SELECT allowed, quota, remaining FROM rl_check('bucket', 'vip', 3);
UPDATE rl_overrides SET burst = 9 WHERE limiter = 'bucket';
SELECT allowed, quota, remaining FROM rl_check('bucket', 'vip', 0);
-- What the key has used stays when the limit goes.
DELETE FROM rl_overrides WHERE key = 'vip';
SELECT quota, remaining, reason FROM rl_check('api', 'vip');
UPDATE rl_overrides SET action = 'limit', quota = 0 WHERE key = 'foe';
SELECT allowed, quota, remaining, retry_after, reason FROM rl_check('api', 'foe');
UPDATE rl_overrides SET action = 'deny', quota = NULL WHERE key = 'foe';

-- Together.
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{bucket,api}', '{other,foe}');
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{api,bucket}', '{friend,other}', '{99,1}');

-- An end, to the microsecond.
UPDATE rl_overrides SET expires_at = clock_timestamp() + '1 hour' WHERE key = 'foe';
SELECT allowed, retry_after BETWEEN '59 minutes' AND '1 hour' AS waits, retry_after = reset_after AS same, reason FROM rl_check('api', 'foe');
UPDATE rl_overrides SET expires_at = clock_timestamp();
SELECT rl_try_acquire('api', 'foe'), remaining, reason FROM rl_peek('api', 'friend');
UPDATE rl_overrides SET expires_at = CASE key WHEN 'foe' THEN '-infinity' ELSE 'infinity' END::timestamptz;
SELECT rl_try_acquire('api', 'foe'), remaining, reason FROM rl_peek('api', 'friend');
UPDATE rl_overrides SET expires_at = NULL;

-- A transaction sees its own changes, a rollback undoes them.
BEGIN;
DELETE FROM rl_overrides;
SAVEPOINT s;
INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', 'foe', 'allow');
SELECT rl_try_acquire('api', 'foe', 99);
ROLLBACK TO s;
SELECT reason FROM rl_check('api', 'foe', 99);
ROLLBACK;
SELECT reason FROM rl_check('api', 'foe', 99);
-- Another key, another limiter, another name of it.
UPDATE rl_overrides SET key = 'enemy' WHERE key = 'foe';
SELECT rl_try_acquire('api', 'foe', 0), rl_try_acquire('api', 'enemy', 0);
UPDATE rl_overrides SET limiter = 'bucket' WHERE key = 'enemy';
SELECT rl_try_acquire('api', 'enemy', 0), rl_try_acquire('bucket', 'enemy', 0);
UPDATE rl_limiters SET name = 'basket' WHERE name = 'bucket';
SELECT rl_try_acquire('basket', 'enemy', 0);
SELECT rl_clone_limiter('basket', 'copy');
SELECT rl_try_acquire('copy', 'enemy', 0);
DELETE FROM rl_overrides WHERE limiter = 'copy';
SELECT rl_try_acquire('copy', 'enemy', 0);
TRUNCATE rl_overrides;
SELECT rl_try_acquire('basket', 'enemy', 0), rl_try_acquire('api', 'friend', 9);

-- Shadow.
INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', 'foe', 'deny');
UPDATE rl_limiters SET mode = 'shadow' WHERE name = 'api';
SELECT allowed, remaining, reason FROM rl_check('api', 'foe');
SELECT rl_try_acquire('api', 'foe'), rl_take('api', 'foe', 5);
UPDATE rl_limiters SET mode = 'enforce' WHERE name = 'api';

-- The emergency switch.
SET ratelimit.enabled = off;
SELECT rl_try_acquire('api', 'foe');
RESET ratelimit.enabled;

-- Slots.
SELECT rl_create_limiter('slots', max_concurrent => 1);
INSERT INTO rl_overrides (limiter, key, action) VALUES ('slots', 'friend', 'allow'), ('slots', 'foe', 'deny');
SELECT rl_try_slot('slots', 'friend'), rl_slot('slots', 'foe'), rl_try_lease('slots', 'foe', '1 hour'), count(*) FROM rl_slots;
SELECT rl_lease('slots', 'friend', '1 hour') IS NULL AS refused, rl_try_session_slot('slots', 'foe');
SELECT allowed, quota, remaining, reason FROM rl_check('slots', 'foe');
SELECT allowed, quota, remaining, reason FROM rl_check('slots', 'friend');

-- Durable limits.
SELECT rl_create_limiter('ledger', '2 per 1000 years', 'fixed_window', storage => 'durable');
INSERT INTO rl_overrides (limiter, key, action, quota) VALUES ('ledger', 'vip', 'limit', 100), ('ledger', 'foe', 'deny', NULL);
SELECT rl_take('ledger', 'vip', 60), rl_take('ledger', 'foe', 60), rl_take('ledger', 'other', 60);
SELECT rl_purge() > 0 AS purged;
SELECT quota, remaining FROM rl_peek('ledger', 'vip');

-- What makes no sense is refused.
INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', 'x', 'limit');
INSERT INTO rl_overrides (limiter, key, action, quota) VALUES ('api', 'x', 'deny', 5);
INSERT INTO rl_overrides (limiter, key, action, quota, burst) VALUES ('api', 'x', 'limit', 5, 9);
INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', 'x', 'maybe');
INSERT INTO rl_overrides (limiter, key, action) VALUES ('nope', 'x', 'deny');
INSERT INTO rl_overrides (limiter, key, action, quota, burst) VALUES ('basket', 'x', 'limit', 5, 9);
UPDATE rl_rules SET algorithm = 'sliding_window', burst = NULL WHERE limiter = 'basket';
-- Also when another rule becomes the first; not when the limiter goes with all of them.
SELECT rl_create_limiter('mixed', '2 per hour burst 3');
INSERT INTO rl_rules (limiter, position, algorithm, quota, period) VALUES ('mixed', 2, 'sliding_log', 9, '1 hour');
INSERT INTO rl_overrides (limiter, key, action, quota, burst) VALUES ('mixed', 'x', 'limit', 5, 9);
DELETE FROM rl_rules WHERE limiter = 'mixed' AND position = 1;
SELECT rl_drop_limiter('mixed');

SET client_min_messages = warning;
BEGIN;
DELETE FROM rl_overrides;
PREPARE TRANSACTION 'lists';
DROP EXTENSION ratelimit;
