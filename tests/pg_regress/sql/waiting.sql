-- Waiting for a turn, and booking one. The limits are slow, so that nothing comes back while this runs; waits are shown in whole hours.
SELECT rl_create_limiter('slow', '1 per hour burst 1');

-- What there is needs no waiting.
SELECT allowed, remaining, reason FROM rl_acquire('slow', 'a');

-- A turn that is too far away is refused at once, and takes nothing.
SELECT allowed, remaining, round(extract(epoch FROM retry_after) / 3600) AS hours, reason FROM rl_acquire('slow', 'a', 1, '1 minute');
SELECT allowed FROM rl_acquire('slow', 'a', timeout => '0');
SELECT round(extract(epoch FROM retry_after) / 3600) AS hours FROM rl_peek('slow', 'a');

-- A cost that never fits is refused, however long one would wait; a cost of 0 has nothing to wait for.
SELECT allowed, retry_after, reason FROM rl_acquire('slow', 'a', 2);
SELECT allowed FROM rl_acquire('slow', 'a', 0);

-- Where a call names no timeout, its limiter does.
UPDATE rl_limiters SET wait_timeout = '1 second' WHERE name = 'slow';
SELECT allowed, reason FROM rl_acquire('slow', 'a');
UPDATE rl_limiters SET wait_timeout = NULL WHERE name = 'slow';

-- A wait that is short enough ends with the cost taken.
SELECT rl_create_limiter('fast', '50 per second burst 1');
SELECT bool_and((rl_acquire('fast', 'a')).allowed) FROM generate_series(1, 4);

-- Clients that sleep on their side book their turn, one behind the other.
CREATE FUNCTION book(limiter text, key text, cost bigint, max_wait interval DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT format('reserved %s, after %s h, quota %s, remaining %s, retry_after %s h, reset_after %s h, reason %s', reserved,
                  round(extract(epoch FROM wait) / 3600), quota, remaining, round(extract(epoch FROM retry_after) / 3600),
                  round(extract(epoch FROM reset_after) / 3600), coalesce(reason, 'none'))
      FROM rl_reserve(limiter, key, cost, max_wait)
$$;
SELECT rl_create_limiter(algorithm::text, '2 per 10 hours', algorithm) FROM unnest(enum_range(NULL::rl_algorithm)) AS algorithm;
-- Windows end at any time from now: a first hit begins one that begins now.
UPDATE rl_rules SET anchor = 'first_hit' WHERE limiter = 'fixed_window';
SELECT n, book('token_bucket', 'a', 2) FROM generate_series(1, 3) AS n;
SELECT n, book('fixed_window', 'a', 2) FROM generate_series(1, 3) AS n;
SELECT n, book('sliding_log', 'a', 2) FROM generate_series(1, 3) AS n;
SELECT limiter, bool_and(reserved) AS reserved, count(DISTINCT wait) AS turns
  FROM (SELECT 'sliding_window' AS limiter, (rl_reserve('sliding_window', 'a', 2)).* FROM generate_series(1, 3)) AS booked GROUP BY limiter;

-- Nobody passes who was not first.
SELECT limiter, rl_try_acquire(limiter, 'a'), allowed, reason
  FROM unnest(enum_range(NULL::rl_algorithm)::text[]) AS limiter, rl_acquire(limiter, 'a', 1, '1 second');

-- Not longer than that, or not at all.
SELECT book('sliding_log', 'a', 1, '29 hours'), book('sliding_log', 'a', 3);
SELECT book('sliding_log', 'a', 1, '30 hours');

-- A refund cancels the last one.
SELECT rl_refund('token_bucket', 'a', 2);
SELECT book('token_bucket', 'a', 2);

-- With slots nobody can know.
SELECT rl_create_limiter('both', '1 per hour', max_concurrent => 1);
SELECT rl_reserve('both', 'a');
BEGIN;
SELECT allowed, quota, remaining FROM rl_acquire('both', 'a');
SELECT allowed, quota, remaining, retry_after, reset_after, reason FROM rl_acquire('both', 'a', 1, '10 ms');
COMMIT;
-- Neither of both: no slot is held where the rate refuses.
BEGIN;
SELECT allowed, reason FROM rl_acquire('both', 'a', 1, '10 ms');
SELECT count(*) FROM rl_slots;
COMMIT;

-- Wrong calls.
\set VERBOSITY sqlstate
SELECT rl_acquire('slow', 'a', 1, '-1 second');
SELECT rl_reserve('slow', 'a', 1, '-1 second');
SELECT rl_acquire('slow', 'a', -1);
SELECT rl_acquire('slow', NULL);
SELECT rl_acquire('nobody', 'a');
SELECT rl_reserve('nobody', 'a');
\set VERBOSITY default

-- The emergency switch.
SET ratelimit.enabled = off;
SELECT * FROM rl_acquire('slow', 'a');
SELECT * FROM rl_reserve('slow', 'a');
