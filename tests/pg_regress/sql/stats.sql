-- What limiters decided, and which keys they refused. Limits are slow, so that nothing comes back while this runs.
SELECT rl_create_limiter('api', '5 per day');
SELECT rl_create_limiter('two', '5 per day, 8 per 2 days');
SELECT rl_create_limiter('slots', max_concurrent => 1);
SELECT rl_create_limiter('both', '2 per day', max_concurrent => 5);
SELECT rl_create_limiter('unused', '5 per day');
SELECT rl_create_limiter('new', '5 per day');
CREATE VIEW counted AS
    SELECT limiter, allowed, denied, refunded, waits, timeouts, bans, shadow_denied
      FROM rl_stat_limiters WHERE allowed + denied + refunded + waits + timeouts > 0 ORDER BY 1;

-- Each decision counts once, whatever the number of rules, and looking counts nothing.
SELECT rl_try_acquire('api', 'a') FROM generate_series(1, 7);
SELECT (rl_check('api', 'b', 2)).allowed, (rl_peek('api', 'b', 9)).allowed, rl_http_headers('api', 'b') IS NOT NULL AS headers;
SELECT allowed FROM rl_check('two', 'a', 5) UNION ALL SELECT allowed FROM rl_check('two', 'a');
SELECT rl_take('api', 'c', 9), rl_take('api', 'c', 9), rl_take('api', 'c', 0);
SELECT rl_penalize('api', 'd', 9);
\set VERBOSITY terse
SELECT rl_enforce('api', 'd');
\set VERBOSITY default
SELECT * FROM counted;

-- Of a call for many keys each one counts; of one for all or nothing the limiter that refuses.
SELECT rl_stat_reset();
SELECT rl_try_acquire_many('api', '{e,e,e}', '{3,3,2}');
SELECT allowed, limiter FROM rl_check_all('{api,two,api}', '{f,f,f}');
SELECT allowed, limiter FROM rl_check_all('{api,two}', '{f,f}', '{1,5}');
SELECT * FROM counted;

-- What is given back is counted as cost.
SELECT rl_stat_reset();
SELECT rl_refund('api', 'f', 2), rl_refund('api', 'f', 3);
SELECT * FROM counted;

-- Slots, alone and with rates; a slot that goes with a rate is no call of its own.
SELECT rl_stat_reset();
BEGIN;
SELECT rl_try_slot('slots', 'a'), rl_try_session_slot('slots', 'a'), rl_try_lease('slots', 'a', '1 hour') IS NULL AS no_lease;
SELECT rl_slot('slots', 'a', '0'), rl_lease('slots', 'a', '1 hour', '10 ms') IS NULL AS no_lease;
SELECT rl_try_acquire('slots', 'b'), rl_try_acquire('slots', 'b');
COMMIT;
SELECT rl_try_acquire('both', 'a'), rl_try_acquire('both', 'a'), rl_try_acquire('both', 'a');
SELECT * FROM counted;

-- Waiting for a turn, or booking one. What is refused at once has timed out.
SELECT rl_stat_reset();
SELECT rl_create_limiter('fast', '100 per second burst 1');
SELECT count(*) FILTER (WHERE (rl_acquire('fast', 'a')).allowed) FROM generate_series(1, 3);
SELECT allowed FROM rl_acquire('api', 'a', timeout => '1 s');
SELECT allowed, reason FROM rl_acquire('api', 'a', 6);
SELECT reserved FROM rl_reserve('api', 'a', 1, '1 s') UNION ALL SELECT reserved FROM rl_reserve('api', 'a', 1, '1 day');
SELECT * FROM counted;
SELECT limiter, wait_time > '0' AS waited FROM rl_stat_limiters WHERE waits > 0 ORDER BY 1;

-- It is no part of the transaction.
SELECT rl_stat_reset();
BEGIN;
SELECT rl_try_acquire('api', 'g'), rl_try_acquire('api', 'a');
SAVEPOINT s;
SELECT rl_try_acquire('api', 'g');
ROLLBACK TO s;
ROLLBACK;
SELECT * FROM counted;

-- How often less than a fifth was left, of those that were allowed: the 9th and 10th of 10, what leaves 1, and all that is left.
SELECT rl_stat_reset();
SELECT rl_create_limiter('ten ' || algorithm, '10 per day', algorithm) FROM unnest(enum_range(NULL::rl_algorithm)) AS algorithm;
SELECT rl_create_limiter('ten refund', '10 per day', on_rollback => 'refund');
SELECT limiter, count(*) FILTER (WHERE rl_try_acquire(limiter, 'a')) AS one_by_one, (rl_check(limiter, 'b', 8)).allowed,
       (rl_check(limiter, 'b', 1)).allowed, rl_take(limiter, 'b', 1), rl_take(limiter, 'c', 11), rl_take(limiter, 'd', 1)
  FROM (SELECT name AS limiter FROM rl_limiters WHERE name LIKE 'ten %') AS l, generate_series(1, 11) AS n GROUP BY 1 ORDER BY 1;
SELECT limiter, allowed, denied, near_limit FROM rl_stat_limiters WHERE limiter LIKE 'ten %' ORDER BY 1;

-- Who is refused most.
SELECT rl_stat_reset();
SELECT count(*) FILTER (WHERE rl_try_acquire('two', 'key ' || n)) FROM generate_series(1, 9) AS n, generate_series(1, 4 + n);
SELECT key, allowed, denied, last_denied > now() - interval '1 minute' AS recent FROM rl_stat_keys('two', 3);
SELECT count(*) FROM rl_stat_keys('two');
SELECT count(*) FROM rl_stat_keys('two', 0);
-- Nothing was refused elsewhere.
SELECT * FROM rl_stat_keys('unused');
-- What is allowed later counts, too.
SELECT rl_reset('two', 'key 9');
SELECT rl_try_acquire('two', 'key 9');
SELECT key, allowed, denied FROM rl_stat_keys('two', 1);
-- Long keys are cut, by whole letters.
SELECT rl_try_acquire('two', repeat('ä', 99) || n, 9) FROM generate_series(1, 2) AS n;
SELECT length(key), octet_length(key), denied FROM rl_stat_keys('two') WHERE key LIKE 'ä%';
-- More keys than there is room for: those refused most are there, and no count is too high.
SELECT count(*) FROM generate_series(1, 1000) AS n WHERE rl_try_acquire('two', 'flood ' || n, 9);
SELECT count(*) FROM generate_series(1, 50) AS n WHERE rl_try_acquire('two', 'key 1', 9);
SELECT count(*), max(denied), (array_agg(key))[1] AS first FROM rl_stat_keys('two', 1000);

-- In shadow all pass, and what would not have passed counts, too; its keys are those that would be refused. What is off counts nothing.
SELECT rl_stat_reset();
SELECT rl_create_limiter('shadow', '2 per day', mode => 'shadow'), rl_create_limiter('off', '2 per day', mode => 'off');
SELECT l, count(*) FILTER (WHERE rl_try_acquire(l, 'a')) FROM unnest('{shadow,off}'::text[]) AS l, generate_series(1, 5) GROUP BY 1 ORDER BY 1;
SELECT rl_take('shadow', 'a', 3), (rl_acquire('shadow', 'a')).allowed, (rl_check_all('{shadow,api}', '{a,z}')).limiter;
SELECT * FROM counted;
SELECT key, allowed, denied FROM rl_stat_keys('shadow');

-- Lists and bans: calls of banned keys are refused ones.
SELECT rl_stat_reset();
SELECT rl_create_limiter('strict', '1 per day', ban_after => 2, ban_within => '1 hour', ban_for => '1 hour');
INSERT INTO rl_overrides (limiter, key, action) VALUES ('strict', 'friend', 'allow'), ('strict', 'foe', 'deny');
SELECT k, count(*) FILTER (WHERE rl_try_acquire('strict', k)) FROM unnest('{a,friend,foe}'::text[]) AS k, generate_series(1, 5) GROUP BY 1 ORDER BY 1;
SELECT rl_ban('strict', 'b', '1 hour');
SELECT * FROM counted;
SELECT key, allowed, denied FROM rl_stat_keys('strict');

-- Limiters that were not asked yet, and those that are gone.
SELECT limiter, allowed, wait_time, near_limit, stats_reset IS NULL AS never_asked FROM rl_stat_limiters WHERE limiter IN ('unused', 'new') ORDER BY 1;
SELECT rl_try_acquire('two', 'key 1', 9);
UPDATE rl_limiters SET name = 'renamed' WHERE name = 'two';
SELECT limiter, denied FROM rl_stat_limiters WHERE limiter = 'renamed';
SELECT rl_drop_limiter('renamed'), rl_create_limiter('renamed', '1 per day');
SELECT limiter, allowed, denied, stats_reset FROM rl_stat_limiters WHERE limiter = 'renamed';
SELECT * FROM rl_stat_keys('renamed');

-- A limit that comes with the call is no limiter.
SELECT (rl_throttle('x', 1, '1 day')).allowed, (rl_sliding_check('x', 1, '1 day')).allowed;

-- The emergency switch allows, and that is counted.
SELECT rl_stat_reset();
SET ratelimit.enabled = off;
SELECT rl_try_acquire('api', 'a'), rl_take('api', 'a', 3), rl_try_slot('slots', 'a');
SELECT allowed FROM rl_check('api', 'a') UNION ALL SELECT allowed FROM rl_acquire('api', 'a') UNION ALL SELECT allowed FROM rl_peek('api', 'a');
SELECT * FROM counted;
RESET ratelimit.enabled;

-- Who may see it: those who may read all statistics. Keys are for nobody else.
CREATE ROLE stats_nobody;
CREATE ROLE stats_reader IN ROLE pg_read_all_stats;
CREATE ROLE stats_app;
CREATE ROLE stats_admin;
SELECT count(*) FROM rl_grant_usage('stats_app');
SELECT count(*) FROM rl_grant_admin('stats_admin');
SELECT r AS role, has_table_privilege(r, 'rl_stat_limiters', 'SELECT') AS limiters,
       has_function_privilege(r, 'rl_stat_keys(text, int)', 'EXECUTE') AS keys, has_function_privilege(r, 'rl_stat_reset()', 'EXECUTE') AS reset
  FROM unnest('{stats_nobody,stats_reader,stats_app,stats_admin}'::text[]) AS r;
SET ROLE stats_reader;
SELECT limiter, allowed FROM rl_stat_limiters WHERE limiter = 'api';
SELECT count(*) FROM rl_stat_keys('api');
RESET ROLE;
SET ROLE stats_app;
SELECT * FROM rl_stat_limiters;
SELECT * FROM rl_stat_keys('api');
RESET ROLE;
DROP OWNED BY stats_app, stats_admin;
DROP ROLE stats_nobody, stats_reader, stats_app, stats_admin;

-- Wrong calls.
SELECT * FROM rl_stat_keys('nobody');
SELECT * FROM rl_stat_keys('api', -1);
SELECT * FROM rl_stat_keys('api', NULL);
