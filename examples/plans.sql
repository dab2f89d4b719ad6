-- Limits that come from a join: what a customer may do stands in the table of plans, and no limiter has to be created.
BEGIN;
CREATE EXTENSION IF NOT EXISTS ratelimit;

CREATE TEMP TABLE plans (plan text PRIMARY KEY, quota bigint, period interval, burst bigint);
INSERT INTO plans VALUES ('free', 2, '1 minute', 2), ('pro', 60, '1 minute', 10);
CREATE TEMP TABLE customers (id int PRIMARY KEY, plan text REFERENCES plans);
INSERT INTO customers VALUES (1, 'free'), (2, 'pro');

-- A token bucket as the customer's plan says: one statement and one round trip. The plan is part of the key, so that each
-- plan counts for itself.
PREPARE request (int) AS
    SELECT c.id, c.plan, d.allowed, d.remaining, d.retry_after > interval '0' AS has_to_wait
      FROM customers AS c
      JOIN plans AS p USING (plan)
     CROSS JOIN LATERAL rl_throttle('example:' || c.plan || ':' || c.id, p.quota, p.period, burst => p.burst) AS d
     WHERE c.id = $1;

EXECUTE request (1);
EXECUTE request (1);
-- The free plan is used up ...
EXECUTE request (1);
-- ... and the other customer is not affected.
EXECUTE request (2);

-- An upgrade holds from the next call on.
UPDATE customers SET plan = 'pro' WHERE id = 1;
EXECUTE request (1);

-- The same with a sliding window, where each export costs as much as it has megabytes.
SELECT export, size, d.allowed, d.remaining
  FROM (VALUES (1, 40), (2, 15), (3, 20)) AS exports (export, size)
 CROSS JOIN LATERAL rl_sliding_check('example:export:1', 60, interval '1 hour', cost => size) AS d
 ORDER BY export;

DEALLOCATE request;
ROLLBACK;
