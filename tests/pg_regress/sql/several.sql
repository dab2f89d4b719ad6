-- Several rules, limiters and keys in one call.
SELECT rl_create_limiter('two', '5 per 1000 years; 3 per 900 years', algorithm => 'fixed_window');
SELECT rl_create_limiter('roomy', '100 per day burst 200');
SELECT rl_create_limiter('tie', '4 per day, 4 per 2 days', algorithm => 'sliding_log');

-- The rule that binds is reported: allowed, the one with the least remaining.
SELECT allowed, quota, remaining, reason FROM rl_check('two', 'a', 2);
-- Refused by one, nothing is taken from the other.
SELECT allowed, quota, remaining, reason FROM rl_check('two', 'a', 2);
SELECT allowed, quota, remaining, reason FROM rl_check('two', 'a', 1);
-- A cost above one capacity is never.
SELECT allowed, quota, remaining, retry_after, reason FROM rl_check('two', 'b', 4);
-- Denied, the longest wait is reported, and the reset is over all rules.
SELECT allowed, retry_after, reset_after
  FROM rl_simulate('2/day, 1 per 3 days', ARRAY['2024-01-01 01:00', '2024-01-01 02:00']::timestamptz[],
                   algorithm => 'sliding_log') OFFSET 1;
-- Of equals, the first.
SELECT quota, remaining FROM rl_check('tie', 'a');

-- All or nothing over several limiters.
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{two,roomy}', '{c,c}', '{3,50}');
SELECT allowed, quota, remaining, reason, limiter FROM rl_check_all('{roomy,two}', '{c,c}', '{50,1}');
SELECT remaining FROM rl_peek('roomy', 'c', 0);
-- A pair that is named twice is asked for both costs.
SELECT allowed, remaining, limiter FROM rl_check_all('{two,two}', '{d,d}', '{2,2}');
SELECT allowed, remaining, limiter FROM rl_check_all('{two,two}', '{d,d}', '{2,1}');
SELECT allowed, remaining, limiter FROM rl_check_all('{two,two}', '{e,f}');
SELECT * FROM rl_check_all('{}', '{}');

-- One decision for each element, in order.
SELECT rl_try_acquire_many('two', '{g,g,h,g,g}');
SELECT rl_try_acquire_many('two', '{i,j}', '{4,3}');
SELECT rl_try_acquire_many('two', '{}');

-- In a query, for each row; cheaper conditions are looked at first.
SELECT n FROM generate_series(1, 10) AS n WHERE rl_try_acquire('two', 'k') AND n > 5;

-- Policies from a join.
CREATE TABLE plans (plan text, quota bigint, period interval);
INSERT INTO plans VALUES ('free', 2, '365000 days'), ('pro', 5, '365000 days');
CREATE TABLE tenants (tenant text, plan text);
INSERT INTO tenants VALUES ('acme', 'free'), ('initech', 'pro');
SELECT t.tenant, n, r.allowed, r.quota, r.remaining
  FROM generate_series(1, 3) AS n, tenants AS t JOIN plans AS p USING (plan), rl_sliding_check(t.tenant, p.quota, p.period) AS r
 ORDER BY n, t.tenant;
-- An upgrade keeps what was used; another period is another limit.
SELECT allowed, quota, remaining FROM rl_sliding_check('acme', 5, '365000 days');
SELECT allowed, quota, remaining FROM rl_sliding_check('acme', 5, '364000 days');
SELECT allowed, quota, remaining FROM rl_throttle('acme', 1, '1 day', 10, 4);
SELECT allowed, quota, remaining FROM rl_throttle('acme', 1, '1 day', burst => 10, cost => 7);
SELECT allowed, quota, remaining FROM rl_throttle('acme', 5, '1 day');
