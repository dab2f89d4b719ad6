-- Keys that are banned.
SELECT rl_create_limiter('api', '2 per 1000 years', 'fixed_window');
SELECT rl_try_acquire('api', 'a');
SELECT rl_ban('api', 'a', '1 hour', 'scraping'), rl_ban('api', 'b', NULL);
SELECT allowed, quota, remaining, retry_after BETWEEN '59 minutes' AND '1 hour' AS waits, retry_after = reset_after AS same, reason FROM rl_check('api', 'a');
SELECT * FROM rl_peek('api', 'b', 0);
SELECT rl_try_acquire('api', 'a'), rl_try_acquire('api', 'b', 0), rl_try_acquire('api', 'c'), rl_take('api', 'a', 1);
SELECT allowed, reason FROM rl_acquire('api', 'b');
SELECT rl_enforce('api', 'b');
SELECT allowed, reason, limiter FROM rl_check_all('{api,api,api}', '{c,a,b}');
SELECT rl_http_headers('api', 'b');
SELECT limiter, key, reason, automatic, since <= clock_timestamp() AS since, expires_at - since AS lasts FROM rl_bans ORDER BY key;

-- It acts at once and stays.
BEGIN;
SELECT rl_ban('api', 'c', '1 day', NULL), rl_unban('api', 'a');
ROLLBACK;
SELECT rl_try_acquire('api', 'a'), reason FROM rl_peek('api', 'c');
BEGIN READ ONLY;
SELECT rl_ban('api', 'a', '1 us'), rl_unban('api', 'c'), rl_unban('api', 'c');
COMMIT;
SELECT pg_sleep(0.001);
-- What was used before is used still; an end is an end; a later ban replaces an earlier one.
SELECT remaining, reason FROM rl_peek('api', 'a');
SELECT rl_unban('api', 'a');
SELECT rl_ban('api', 'b', '1 second', 'again');
SELECT key, reason, expires_at - since AS lasts FROM rl_bans;
-- Forgetting what was used ends no ban, and the other way round.
SELECT rl_reset('api', 'b'), rl_reset_all('api') > 0 AS reset, count(*) FROM rl_bans;
SELECT rl_unban('api', 'b'), rl_unban('nope', 'b');
SELECT rl_unban('api', NULL), rl_ban('api', 'b', '1 h');
SELECT rl_ban('api', 'b', '0');
SELECT rl_ban('api', 'b', '-1 day');

-- After so many denials: the last one is still reported as what it was.
SELECT rl_create_limiter('login', '1 per 1000 years', 'fixed_window', ban_after => 3, ban_within => '1 hour', ban_for => '10 minutes');
SELECT (rl_check('login', 'a')).reason FROM generate_series(1, 6);
SELECT limiter, key, reason, automatic, expires_at - since AS lasts FROM rl_bans;
-- What can never pass, peeks and calls while banned do not count.
SELECT (rl_check('login', 'b', 2)).reason FROM generate_series(1, 3);
SELECT rl_try_acquire('login', 'b');
SELECT (rl_peek('login', 'b')).reason FROM generate_series(1, 3);
SELECT rl_take('login', 'a', 1) FROM generate_series(1, 3);
SELECT rl_try_acquire('login', 'b') FROM generate_series(1, 2);
SELECT reason FROM rl_peek('login', 'b');
-- After the ban counting starts afresh.
SELECT rl_unban('login', 'a');
SELECT (rl_check('login', 'a')).reason FROM generate_series(1, 4);
-- Whatever the call.
SELECT rl_create_limiter('roomy', '1000 per 1000 years', 'fixed_window');
SELECT rl_take('login', 'c', 5) FROM generate_series(1, 4);
SELECT rl_try_acquire_many('login', '{d,d,d,d,d}');
SELECT (rl_check_all('{login,roomy}', '{e,e}')).reason FROM generate_series(1, 5);
SELECT (rl_acquire('login', 'f', timeout => '0')).reason FROM generate_series(1, 5);
SELECT (rl_reserve('login', 'g', max_wait => '0')).reason FROM generate_series(1, 5);
CREATE TABLE attempts (who text);
CREATE TRIGGER quota BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION rl_limit_row('login', '{who}');
\set VERBOSITY terse
INSERT INTO attempts VALUES ('h');
INSERT INTO attempts VALUES ('h');
INSERT INTO attempts VALUES ('h');
INSERT INTO attempts VALUES ('h');
INSERT INTO attempts VALUES ('h');
\set VERBOSITY default
DROP TABLE attempts;
SELECT key, automatic FROM rl_bans ORDER BY key;
-- Resetting a key forgets its denials.
SELECT rl_try_acquire('login', 'i') FROM generate_series(1, 3);
SELECT rl_reset('login', 'i');
SELECT (rl_check('login', 'i')).reason FROM generate_series(1, 5);
-- So does a ban by hand, and what is banned already is not banned by itself.
SELECT (rl_check('login', 'l')).reason FROM generate_series(1, 3);
SELECT rl_ban('login', 'l', '1 hour', 'by hand'), rl_take('login', 'l', 1);
SELECT automatic, reason FROM rl_bans WHERE key = 'l';
SELECT rl_unban('login', 'l'), (rl_check('login', 'l')).reason;
SELECT (rl_check('login', 'l')).reason FROM generate_series(1, 3);
-- With on_rollback => 'refund', too.
UPDATE rl_limiters SET on_rollback = 'refund' WHERE name = 'login';
SELECT (rl_check('login', 'j')).reason FROM generate_series(1, 5);
-- Shadow limiters ban nobody, but say who is banned.
UPDATE rl_limiters SET mode = 'shadow' WHERE name = 'login';
SELECT (rl_check('login', 'k')).reason FROM generate_series(1, 6);
SELECT allowed, reason FROM rl_check('login', 'j');

-- Overrides come first.
INSERT INTO rl_overrides (limiter, key, action) VALUES ('api', 'friend', 'allow'), ('api', 'foe', 'deny');
SELECT rl_ban('api', 'friend', NULL), rl_ban('api', 'foe', NULL);
SELECT rl_try_acquire('api', 'friend'), reason FROM rl_peek('api', 'foe');

-- Slots: a ban comes before concurrency.
SELECT rl_create_limiter('slots', max_concurrent => 1);
SELECT rl_ban('slots', 'a', '1 hour');
SELECT rl_try_slot('slots', 'a'), rl_slot('slots', 'a'), rl_try_lease('slots', 'a', '1 hour'), rl_try_slot('slots', 'b');
SELECT allowed, quota, reason FROM rl_check('slots', 'a');

-- Bans of durable limiters are rolled back.
SELECT rl_create_limiter('ledger', '1 per 1000 years', 'fixed_window', storage => 'durable',
    ban_after => 2, ban_within => '1 hour');
BEGIN;
SELECT rl_ban('ledger', 'a', '1 hour', 'because');
SELECT reason FROM rl_check('ledger', 'a');
ROLLBACK;
SELECT rl_try_acquire('ledger', 'a');
SELECT rl_ban('ledger', 'a', '1 hour', 'because'), rl_ban('ledger', 'a', '2 hours');
SELECT allowed, quota, remaining, retry_after > '1 hour' AS waits, reason FROM rl_check('ledger', 'a');
SELECT (rl_check('ledger', 'b')).reason FROM generate_series(1, 4);
SELECT key, reason, automatic, expires_at - since AS lasts FROM rl_bans WHERE limiter = 'ledger' ORDER BY key;
BEGIN;
SELECT rl_unban('ledger', 'b'), rl_unban('ledger', 'b');
SELECT reason FROM rl_check('ledger', 'b');
ROLLBACK;
SELECT reason FROM rl_check('ledger', 'b');
SELECT rl_unban('ledger', 'a'), rl_try_acquire('ledger', 'a');
-- Resetting a key, a ban by hand and the end of a ban make it start afresh here, too.
SELECT rl_take('ledger', k, 1) FROM unnest('{d,e,f}'::text[]) AS k, generate_series(1, 2);
SELECT rl_reset('ledger', 'd');
SELECT rl_take('ledger', 'd', 1) FROM generate_series(1, 2);
SELECT reason FROM rl_peek('ledger', 'd');
SELECT rl_ban('ledger', 'e', '1 us');
SELECT rl_take('ledger', 'e', 1), reason FROM rl_peek('ledger', 'e');
BEGIN;
SELECT (rl_check('ledger', 'f')).reason FROM generate_series(1, 2);
SELECT rl_unban('ledger', 'f');
SELECT (rl_check('ledger', 'f')).reason FROM generate_series(1, 3);
COMMIT;
-- Errors that roll back what was refused leave no ban, and count none.
DO $$
BEGIN
    FOR n IN 1..5 LOOP
        BEGIN
            PERFORM rl_enforce('ledger', 'g');
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
END
$$;
SELECT reason FROM rl_peek('ledger', 'g');
SELECT bans AS before FROM rl_stat_limiters WHERE limiter = 'ledger' \gset
SELECT (rl_check('ledger', 'g')).reason FROM generate_series(1, 2);
SELECT bans - :before AS bans FROM rl_stat_limiters WHERE limiter = 'ledger';
-- What has ended is removed by house-keeping.
SELECT rl_ban('ledger', 'c', '1 us');
SELECT reason FROM rl_peek('ledger', 'c');
SELECT rl_purge() > 0 AS purged;
SELECT key FROM rl_durable_bans;
BEGIN READ ONLY;
SELECT rl_ban('ledger', 'a', NULL);
ROLLBACK;

-- What makes no sense is refused.
\set SHOW_CONTEXT never
SELECT rl_create_limiter('x', '1 per day', ban_after => 1001, ban_within => '1 hour');
SELECT rl_create_limiter('x', '1 per day', ban_after => 5);
SELECT rl_create_limiter('x', '1 per day', ban_for => '1 hour');

-- Keys are nobody's business.
CREATE ROLE bans_app;
CREATE ROLE bans_monitor IN ROLE pg_read_all_stats;
SELECT count(*) FROM rl_grant_usage('bans_app');
SET ROLE bans_app;
SELECT rl_ban('api', 'a', '1 hour');
SELECT rl_unban('api', 'a');
SELECT * FROM rl_bans;
SET ROLE bans_monitor;
SELECT count(*) > 5 AS seen FROM rl_bans;
RESET ROLE;
DROP OWNED BY bans_app;
DROP ROLE bans_app, bans_monitor;
DROP EXTENSION ratelimit;
