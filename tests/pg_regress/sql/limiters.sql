-- Definitions are rows.
SELECT rl_create_limiter('api', '100 per minute');
SELECT rl_create_limiter('login', '5 per 5 minutes', algorithm => 'sliding_log');
SELECT rl_create_limiter('search', '10/second burst 20, 1000/hour', description => 'the search page');
SELECT rl_create_limiter('billing', '10000 per month', algorithm => 'fixed_window', time_zone => 'Europe/Berlin');
SELECT rl_create_limiter('weeks', '7 per week; 8 per 14 days; 9 per 2 years', algorithm => 'fixed_window', anchor => 'clock');
SELECT rl_create_limiter('refills', '5 per day', refill => 'interval');
SELECT rl_create_limiter('trial', '5 per day', algorithm => 'fixed_window', anchor => 'first_hit');
SELECT name, description, storage, on_rollback, mode, max_concurrent, wait_timeout FROM rl_limiters ORDER BY name;
SELECT * FROM rl_rules ORDER BY limiter, position;

-- Plain DML works, in one transaction with anything else.
BEGIN;
INSERT INTO rl_limiters (name) VALUES ('by hand');
INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', 2, '1 day');
SELECT rl_try_acquire_many('by hand', '{a,a,a}');
UPDATE rl_rules SET quota = 3 WHERE limiter = 'by hand';
-- What was used stays used.
SELECT rl_try_acquire('by hand', 'a'), rl_try_acquire('by hand', 'a');
SAVEPOINT s;
UPDATE rl_rules SET quota = 0 WHERE limiter = 'by hand';
SELECT reason FROM rl_peek('by hand', 'b');
ROLLBACK TO s;
SELECT reason, quota FROM rl_peek('by hand', 'b');
ROLLBACK;
SELECT rl_try_acquire('by hand', 'a');

-- Another algorithm starts afresh, and going back to the first one does, too.
SELECT rl_create_limiter('changing', '2 per day');
SELECT rl_take('changing', 'a', 5);
UPDATE rl_rules SET algorithm = 'fixed_window', period = '1000 years' WHERE limiter = 'changing';
SELECT rl_take('changing', 'a', 1);
UPDATE rl_rules SET algorithm = 'token_bucket', period = '1 day' WHERE limiter = 'changing';
SELECT rl_take('changing', 'a', 5);

-- A limiter that is dropped and created again knows nothing of the old one's keys.
SELECT rl_drop_limiter('changing'), rl_drop_limiter('changing');
SELECT rl_create_limiter('changing', '2 per day');
SELECT rl_take('changing', 'a', 5);
BEGIN;
SELECT rl_drop_limiter('changing');
SELECT rl_create_limiter('changing', '2 per day');
SELECT rl_take('changing', 'a', 5);
COMMIT;

-- Clones, with the same rules or with other rates.
SELECT rl_clone_limiter('billing', 'billing, too');
SELECT rl_clone_limiter('billing', 'billing for a few', '10 per month', description => 'a few');
SELECT rl_clone_limiter('billing', 'billing by a bucket', '10 per 7 days', 'token_bucket');
SELECT rl_clone_limiter('search', 'log', '10 per day', 'sliding_log');
SELECT * FROM rl_rules WHERE limiter LIKE 'billing%' OR limiter = 'log' ORDER BY limiter;
SELECT name, description FROM rl_limiters WHERE name IN ('log', 'billing for a few') ORDER BY name;

-- A limiter may be renamed.
UPDATE rl_limiters SET name = 'renamed' WHERE name = 'log';
SELECT rl_try_acquire('renamed', 'a');
SELECT rl_try_acquire('log', 'a');

-- All gone, with all that belongs to them.
SET client_min_messages = warning;
TRUNCATE rl_limiters CASCADE;
SELECT rl_try_acquire('api', 'a');
