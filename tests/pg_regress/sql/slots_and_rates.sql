-- Limiters that bound how many go on at once in the calls for rates: with rates, a call takes a slot and its cost, or neither.
SELECT rl_create_limiter('both', '5 per 36500 days', max_concurrent => 2);
SELECT rl_create_limiter('slots', max_concurrent => 2);
SELECT rl_create_limiter('rates', '5 per 36500 days');
CREATE VIEW held AS SELECT limiter, key, kind, count(*) FROM rl_slots GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- No slot: the cost is not taken. No cost: the slot is not.
BEGIN;
SELECT n, allowed, quota, remaining, retry_after, reset_after > '0' AS used, reason FROM generate_series(1, 3) AS n, rl_check('both', 'a', 1);
SELECT * FROM held;
COMMIT;
SELECT remaining FROM rl_peek('both', 'a', 0);
BEGIN;
SELECT rl_try_acquire('both', 'a', 4), rl_try_acquire('both', 'a', 3), rl_try_acquire('both', 'a'), rl_try_acquire('both', 'a', 0);
SELECT * FROM held;
COMMIT;

-- Outside of a block the slot is given back at once, and the cost stays taken.
SELECT rl_try_acquire('both', 'b') FROM generate_series(1, 6);

-- Concurrency is looked at before the rates.
BEGIN;
SELECT rl_try_slot('both', 'c'), rl_try_slot('both', 'c');
SELECT * FROM rl_check('both', 'c', 100);
SELECT * FROM rl_peek('both', 'c');
SELECT * FROM rl_peek('both', 'c', 0);
SELECT rl_enforce('both', 'c');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT allowed, quota, remaining, reason FROM rl_peek('both', 'c');
SELECT allowed, quota, remaining, retry_after, reason FROM rl_check('both', 'c', 100);

-- Slots alone: a call takes one, whatever it costs.
BEGIN;
SELECT * FROM rl_peek('slots', 'a');
SELECT * FROM rl_check('slots', 'a');
SELECT * FROM rl_check('slots', 'a', 1000);
SELECT * FROM rl_check('slots', 'a');
SELECT * FROM rl_check('slots', 'a', 0);
SELECT * FROM rl_peek('slots', 'never seen', 0);
SELECT * FROM rl_peek('slots', 'a');
SELECT rl_try_acquire('slots', 'a');
SELECT rl_enforce('slots', 'a');
ROLLBACK;

-- A rollback gives slots back, and keeps costs where the limiter keeps.
BEGIN;
SAVEPOINT s;
SELECT rl_try_acquire('both', 'd', 2);
ROLLBACK TO s;
SELECT * FROM held;
ROLLBACK;
SELECT remaining FROM rl_peek('both', 'd', 0);

-- Several, all or nothing; a call takes one slot of a pair, also where it names the pair twice.
BEGIN;
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{rates,both,slots}', '{e,e,e}');
SELECT * FROM held;
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{both,both}', '{e,e}');
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{both,slots,slots}', '{f,e,e}');
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{both,rates}', '{f,e}', '{1,6}');
SELECT * FROM held;
SELECT remaining FROM rl_peek('both', 'f', 0) UNION ALL SELECT remaining FROM rl_peek('rates', 'e', 0);
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{both,both}', '{f,f}');
COMMIT;

-- One slot for each that is let pass.
BEGIN;
SELECT rl_try_acquire_many('both', '{g,g,g,h}'), rl_try_acquire_many('slots', '{g,g,g,h}');
SELECT * FROM held;
COMMIT;

-- As many as are left go with one slot.
BEGIN;
SELECT rl_take('both', 'i', 2), rl_take('both', 'i', 9), rl_take('both', 'i', 9), rl_take('both', 'j', 0);
SELECT rl_take('slots', 'i', 2), rl_take('slots', 'i', 9), rl_take('slots', 'i', 9);
SELECT * FROM held;
COMMIT;
-- Nothing left: no slot.
BEGIN;
SELECT rl_take('both', 'i', 2);
SELECT * FROM held;
COMMIT;

-- What is charged or given back has nothing to do with slots.
BEGIN;
SELECT rl_penalize('both', 'k', 2), rl_refund('both', 'k'), rl_reset('both', 'k'), rl_penalize('slots', 'k'), rl_refund('slots', 'k');
SELECT rl_reset('slots', 'k'), rl_reset_all('slots');
SELECT * FROM held;
COMMIT;

-- Triggers hold a slot to the end of the transaction, too.
CREATE TABLE jobs (owner text);
CREATE TRIGGER limited BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION rl_limit_row('slots', '{owner}');
BEGIN;
INSERT INTO jobs VALUES ('m'), ('m');
SELECT * FROM held;
INSERT INTO jobs VALUES ('m');
ROLLBACK;
SELECT * FROM held;

-- Headers: what a call would find.
SELECT rl_http_headers('slots', 'n');
BEGIN;
SELECT rl_try_slot('slots', 'n');
SELECT rl_http_headers('slots', 'n');
SELECT rl_try_slot('slots', 'n');
SELECT rl_http_headers('slots', 'n');
ROLLBACK;
SELECT jsonb_object_keys(rl_http_headers('both', 'n'));
BEGIN;
SELECT rl_try_slot('both', 'n'), rl_try_slot('both', 'n');
SELECT rl_http_headers('both', 'n') ->> 'X-RateLimit-Remaining' AS remaining, rl_http_headers('both', 'n') ? 'Retry-After' AS retry;
ROLLBACK;

-- The emergency switch.
SET ratelimit.enabled = off;
SELECT * FROM rl_check('slots', 'a', 1000);
RESET ratelimit.enabled;
