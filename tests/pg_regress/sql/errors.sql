-- Wrong calls: each is an error that says what to do, and takes nothing.
\set VERBOSITY verbose
\set SHOW_CONTEXT never
SELECT rl_create_limiter('api', '3 per day');

SELECT rl_try_acquire('nope', 'a');
SELECT rl_try_acquire(NULL, 'a');
SELECT rl_try_acquire('api', NULL);
SELECT rl_try_acquire('api', 'a', NULL);
SELECT rl_check('api', 'a', -1);
SELECT rl_peek('api', NULL);
SELECT rl_enforce('api', 'a', -9223372036854775808);
SELECT rl_take('api', 'a', -5);
SELECT rl_take('api', 'a', NULL);
SELECT rl_refund('api', 'a', -1);
SELECT rl_penalize('nope', 'a');
SELECT rl_reset('api', NULL);
SELECT rl_reset_all('nope');
SELECT rl_http_headers('nope', 'a');
SELECT reason, retry_after FROM rl_check('api', 'a', 9223372036854775807);

SELECT rl_check_all('{api}', '{a,b}');
SELECT rl_check_all('{api,api}', '{a,b}', '{1}');
SELECT rl_check_all('{api,NULL}', '{a,b}');
SELECT rl_check_all('{api,nope}', '{a,b}');
SELECT rl_check_all(array_fill('api'::text, '{1001}'), array_fill('a'::text, '{1001}'));
SELECT rl_try_acquire_many('api', NULL);
SELECT rl_try_acquire_many('api', '{{a},{b}}');
SELECT rl_try_acquire_many('api', '{a,NULL}');
SELECT rl_try_acquire_many('api', '{a,b}', '{1,-1}');

SELECT rl_sliding_check('a', -1, '1 day');
SELECT rl_sliding_check('a', 1, '0');
SELECT rl_sliding_check('a', 1, '-1 day');
SELECT rl_sliding_check('a', 1, '1 month');
SELECT rl_sliding_check('a', 1, '1 microsecond');
SELECT rl_sliding_check('a', 1, '178956970 years');
SELECT rl_sliding_check('a', 1000000000001, '1 day');
SELECT rl_sliding_check(NULL, 1, '1 day');
SELECT rl_throttle('a', 1, '1 day', 0);
SELECT rl_throttle('a', 0, '1 day', 1);
SELECT rl_throttle('a', 1, '1001 years');

-- Nothing was taken by any of these.
SELECT remaining FROM rl_peek('api', 'a', 0);

SELECT rl_create_limiter('api', '3 per day');
SELECT rl_create_limiter(NULL, '3 per day');
SELECT rl_create_limiter('', '3 per day');
SELECT rl_create_limiter(E'two\nlines', '3 per day');
SELECT rl_create_limiter(repeat('x', 64), '3 per day');
SELECT rl_create_limiter('new');
SELECT rl_create_limiter('new', '');
SELECT rl_create_limiter('new', '3 pr day');
SELECT rl_create_limiter('new', '3 per day,');
SELECT rl_create_limiter('new', '3 per day burst 0');
SELECT rl_create_limiter('new', '0 per day burst 5');
SELECT rl_create_limiter('new', '-3 per day');
SELECT rl_create_limiter('new', '3 per 0 days');
SELECT rl_create_limiter('new', '3 per month');
SELECT rl_create_limiter('new', '3 per 99999999999999999999 days');
SELECT rl_create_limiter('new', '10 per minute; 20 per minute');
SELECT rl_create_limiter('new', repeat('9', 10000));
SELECT rl_create_limiter('new', '3 per day burst 5', algorithm => 'fixed_window');
SELECT rl_create_limiter('new', '1001 per day', algorithm => 'sliding_log');
SELECT rl_create_limiter('new', '3 per day', algorithm => NULL);
SELECT rl_create_limiter('new', '3 per day', algorithm => 'leaky');
SELECT rl_create_limiter('new', '3 per day', time_zone => 'Middle/Earth');
SELECT rl_create_limiter('new', '3 per day', refill => 'now and then');
SELECT rl_create_limiter('new', '3 per day', anchor => 'bolt');
SELECT rl_create_limiter('new', '3 per day', anchor => 'first_hit');
SELECT rl_create_limiter('new', '3 per day', algorithm => 'fixed_window', refill => 'interval');
SELECT rl_drop_limiter(NULL);
SELECT rl_clone_limiter('nope', 'new');
SELECT rl_clone_limiter('api', 'api');
SELECT rl_clone_limiter('api', 'new', algorithm => 'sliding_log');

-- Not in this version.
SELECT rl_create_limiter('new', '3 per day', storage => 'durable');
SELECT rl_create_limiter('new', '3 per day', on_rollback => 'refund');
SELECT rl_create_limiter('new', '3 per day', mode => 'shadow');
SELECT rl_create_limiter('new', '3 per day', max_concurrent => 5);
SELECT rl_create_limiter('new', '3 per day', ban_after => 5, ban_within => '1 minute', ban_for => '1 hour');

-- By hand, the constraints say no.
INSERT INTO rl_limiters (name) VALUES ('by hand');
INSERT INTO rl_rules (limiter, quota, period) VALUES ('nope', 1, '1 day');
INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', -1, '1 day');
INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', 1, '0');
INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', 1, '1 month');
INSERT INTO rl_rules (limiter, quota, period) VALUES ('by hand', 1, '1 month 1 day');
INSERT INTO rl_rules (limiter, quota, period, algorithm) VALUES ('by hand', 1, '1 day 1 hour', 'fixed_window');
INSERT INTO rl_rules (limiter, quota, period, time_zone) VALUES ('by hand', 1, '1 day', 'Middle/Earth');
INSERT INTO rl_rules (limiter, position, quota, period) VALUES ('by hand', 1, 1, '1 day'), ('by hand', 2, 2, '1 day');
INSERT INTO rl_limiters (name) VALUES (E'two\nlines');
SELECT rl_try_acquire('by hand', 'a');
SELECT name FROM rl_limiters;
