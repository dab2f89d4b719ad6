-- Wrong calls: each is an error that says what to do, and takes nothing.
CREATE FUNCTION answer(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN 'answer: ' || answer;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ': ' || SQLERRM || coalesce(E'\n  DETAIL: ' || nullif(detail, ''), '') || coalesce(E'\n  HINT: ' || nullif(hint, ''), '');
END
$$;
\pset format unaligned
\pset tuples_only on
SELECT rl_create_limiter('api', '3 per day');

SELECT answer($$SELECT rl_try_acquire('nope', 'a')$$);
SELECT answer($$SELECT rl_try_acquire(NULL, 'a')$$);
SELECT answer($$SELECT rl_try_acquire('api', NULL)$$);
SELECT answer($$SELECT rl_try_acquire('api', 'a', NULL)$$);
SELECT answer($$SELECT rl_check('api', 'a', -1)$$);
SELECT answer($$SELECT rl_peek('api', NULL)$$);
SELECT answer($$SELECT rl_enforce('api', 'a', -9223372036854775808)$$);
SELECT answer($$SELECT rl_take('api', 'a', -5)$$);
SELECT answer($$SELECT rl_take('api', 'a', NULL)$$);
SELECT answer($$SELECT rl_refund('api', 'a', -1)$$);
SELECT answer($$SELECT rl_penalize('nope', 'a')$$);
SELECT answer($$SELECT rl_reset('api', NULL)$$);
SELECT answer($$SELECT rl_reset_all('nope')$$);
SELECT answer($$SELECT rl_http_headers('nope', 'a')$$);
SELECT answer($$SELECT reason, retry_after FROM rl_check('api', 'a', 9223372036854775807)$$);

SELECT answer($$SELECT rl_check_all('{api}', '{a,b}')$$);
SELECT answer($$SELECT rl_check_all('{api,api}', '{a,b}', '{1}')$$);
SELECT answer($$SELECT rl_check_all('{api,NULL}', '{a,b}')$$);
SELECT answer($$SELECT rl_check_all('{api,nope}', '{a,b}')$$);
SELECT answer($$SELECT rl_check_all(array_fill('api'::text, '{1001}'), array_fill('a'::text, '{1001}'))$$);
SELECT answer($$SELECT rl_try_acquire_many('api', NULL)$$);
SELECT answer($$SELECT rl_try_acquire_many('api', '{{a},{b}}')$$);
SELECT answer($$SELECT rl_try_acquire_many('api', '{a,NULL}')$$);
SELECT answer($$SELECT rl_try_acquire_many('api', '{a,b}', '{1,-1}')$$);

SELECT answer($$SELECT rl_sliding_check('a', -1, '1 day')$$);
SELECT answer($$SELECT rl_sliding_check('a', 1, '0')$$);
SELECT answer($$SELECT rl_sliding_check('a', 1, '-1 day')$$);
SELECT answer($$SELECT rl_sliding_check('a', 1, '1 month')$$);
SELECT answer($$SELECT rl_sliding_check('a', 1, '1 microsecond')$$);
SELECT answer($$SELECT rl_sliding_check('a', 1, '178956970 years')$$);
SELECT answer($$SELECT rl_sliding_check('a', 1000000000001, '1 day')$$);
SELECT answer($$SELECT rl_sliding_check(NULL, 1, '1 day')$$);
SELECT answer($$SELECT rl_throttle('a', 1, '1 day', 0)$$);
SELECT answer($$SELECT rl_throttle('a', 0, '1 day', 1)$$);
SELECT answer($$SELECT rl_throttle('a', 1, '1001 years')$$);

-- Nothing was taken by any of these.
SELECT remaining FROM rl_peek('api', 'a', 0);

SELECT answer($$SELECT rl_create_limiter('api', '3 per day')$$);
SELECT answer($$SELECT rl_create_limiter(NULL, '3 per day')$$);
SELECT answer($$SELECT rl_create_limiter('', '3 per day')$$);
SELECT answer($$SELECT rl_create_limiter(E'two\nlines', '3 per day')$$);
SELECT answer($$SELECT rl_create_limiter(repeat('x', 64), '3 per day')$$);
SELECT answer($$SELECT rl_create_limiter('new')$$);
SELECT answer($$SELECT rl_create_limiter('new', '')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 pr day')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day,')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day burst 0')$$);
SELECT answer($$SELECT rl_create_limiter('new', '0 per day burst 5')$$);
SELECT answer($$SELECT rl_create_limiter('new', '-3 per day')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per 0 days')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per month')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per 99999999999999999999 days')$$);
SELECT answer($$SELECT rl_create_limiter('new', '10 per minute; 20 per minute')$$);
SELECT answer($$SELECT rl_create_limiter('new', repeat('9', 10000))$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day burst 5', algorithm => 'fixed_window')$$);
SELECT answer($$SELECT rl_create_limiter('new', '1001 per day', algorithm => 'sliding_log')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', algorithm => NULL)$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', algorithm => 'leaky')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', time_zone => 'Middle/Earth')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', refill => 'now and then')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', anchor => 'bolt')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', anchor => 'first_hit')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', algorithm => 'fixed_window', refill => 'interval')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', anchor => 'epoch')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', time_zone => 'Europe/Berlin')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', max_concurrent => -1)$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', wait_timeout => '-1 second')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', ban_after => 0, ban_within => '1 minute')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', ban_after => 5, ban_within => '0')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', ban_after => 5, ban_within => '1 minute', ban_for => '-1 day')$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', ban_after => 5)$$);
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', ban_for => '1 day')$$);
SELECT answer($$SELECT rl_drop_limiter(NULL)$$);
SELECT answer($$SELECT rl_clone_limiter('nope', 'new')$$);
SELECT answer($$SELECT rl_clone_limiter('api', 'api')$$);
SELECT answer($$SELECT rl_clone_limiter('api', 'new', algorithm => 'sliding_log')$$);

-- No such role, and none at all.
SELECT answer($$SELECT rl_grant_usage('99999'::regrole)$$);
SELECT answer($$SELECT rl_grant_admin('-'::regrole)$$);
SELECT answer($$SELECT rl_grant_usage(NULL)$$);

-- What is durable is undone with its transaction, and needs one that writes.
SELECT answer($$SELECT rl_create_limiter('new', '3 per day', storage => 'durable', on_rollback => 'keep')$$);
SELECT answer($$UPDATE rl_limiters SET storage = 'durable' WHERE name = 'api'$$);
SELECT rl_create_limiter('durable', '3 per day', storage => 'durable');
BEGIN READ ONLY;
SELECT answer($$SELECT rl_try_acquire('durable', 'k')$$);
SELECT answer($$SELECT rl_peek('durable', 'k')$$);
COMMIT;
BEGIN;
SELECT rl_try_acquire('durable', 'k');
PREPARE TRANSACTION 'held';


-- By hand, the constraints say no.
INSERT INTO rl_limiters (name) VALUES ('by hand');
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period) VALUES ('nope', 1, '1 day')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', -1, '1 day')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', 1, '0')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', 1, '1 month')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', 1, '1 month 1 day')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period, algorithm) VALUES ('by hand', 1, '1 day 1 hour', 'fixed_window')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period, time_zone) VALUES ('by hand', 1, '1 day', 'Middle/Earth')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period, time_zone) VALUES ('by hand', 1, '1 day', 'Europe/Berlin')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period, anchor) VALUES ('by hand', 1, '7 days', 'epoch')$$);
SELECT answer($$UPDATE rl_rules SET anchor = 'first_hit' WHERE limiter = 'api'$$);
SELECT answer($$INSERT INTO rl_rules (limiter, quota, period, algorithm, refill) VALUES ('by hand', 1, '1 day', 'sliding_log', 'interval')$$);
SELECT answer($$INSERT INTO rl_rules (limiter, position, quota, period) VALUES ('by hand', 1, 1, '1 day'), ('by hand', 2, 2, '1 day')$$);
SELECT answer($$INSERT INTO rl_limiters (name, created_at, id) VALUES (E'two\nlines', '2024-01-01', '00000000-0000-0000-0000-000000000000')$$);
SELECT answer($$SELECT rl_try_acquire('by hand', 'a')$$);
SELECT name FROM rl_limiters;
