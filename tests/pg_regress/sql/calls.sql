-- The calls for one limiter and key, with their answers. The limits are slow, so that nothing comes back while this runs.
SELECT rl_create_limiter('api', '3 per day');

-- Takes until nothing is left; then says no, and never null.
SELECT n, rl_try_acquire('api', 'a') FROM generate_series(1, 4) AS n;
SELECT rl_try_acquire('api', 'another key');
SELECT rl_try_acquire('api', 'b', 2), rl_try_acquire('api', 'b', 2), rl_try_acquire('api', 'b', 1);

-- The whole answer; waits are rounded, because time goes on.
CREATE FUNCTION rounded(d record) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN format('allowed %s, quota %s, remaining %s, retry_after %s, reset_after %s, reason %s', d.allowed, d.quota,
                  d.remaining, extract(epoch FROM d.retry_after)::bigint, extract(epoch FROM d.reset_after)::bigint, d.reason);
END
$$;
SELECT rounded(rl_check('api', 'c', 2));
SELECT rounded(rl_check('api', 'c', 2));
SELECT rounded(rl_check('api', 'c', 4));
SELECT allowed, remaining, retry_after, reason FROM rl_check('api', 'c', 4);

-- A look changes nothing, and an untouched key is as good as new.
SELECT * FROM rl_peek('api', 'd', 0);
SELECT rounded(rl_peek('api', 'd')), rounded(rl_peek('api', 'd'));
SELECT allowed, remaining FROM rl_check('api', 'd');

-- A cost of 0 takes nothing and passes, also where nothing is left.
SELECT allowed, remaining, reason FROM rl_check('api', 'a', 0);

-- Giving back, never above the capacity.
SELECT rl_refund('api', 'a');
SELECT remaining FROM rl_peek('api', 'a', 0);
SELECT rl_refund('api', 'a', 1000);
SELECT remaining, reset_after FROM rl_peek('api', 'a', 0);
SELECT rl_refund('api', 'never seen');

-- Charging after the fact may overdraw.
SELECT rl_penalize('api', 'e', 10);
SELECT rounded(rl_peek('api', 'e'));
SELECT rl_try_acquire('api', 'e', 0);

-- As many as are left.
SELECT rl_take('api', 'f', 2), rl_take('api', 'f', 2), rl_take('api', 'f', 2), rl_take('api', 'g', 0);

-- Forgetting.
SELECT rl_reset('api', 'f');
SELECT rl_reset('api', 'f'), rl_reset('api', 'never seen');
SELECT rl_take('api', 'f', 5);
SELECT rl_reset_all('api') > 0, rl_reset_all('api');
SELECT rl_take('api', 'e', 5);

-- Quota 0 denies all, and for ever.
SELECT rl_create_limiter('closed', '0 per minute');
SELECT * FROM rl_check('closed', 'a');
SELECT * FROM rl_check('closed', 'a', 0);
SELECT rl_enforce('closed', 'a');
\echo :LAST_ERROR_SQLSTATE
SELECT rl_enforce('api', 'h');

-- The message names neither key nor limiter: it becomes the HTTP reason phrase.
DO $$
BEGIN
    PERFORM rl_enforce('api', 'h', 3);
EXCEPTION WHEN SQLSTATE 'PT429' THEN
    RAISE NOTICE '%', SQLERRM;
END
$$;

-- Keys are any text.
SELECT rl_try_acquire('api', ''), rl_try_acquire('api', repeat('x', 10000)), rl_try_acquire('api', 'ключ 鍵 🔑');
SELECT remaining FROM rl_peek('api', repeat('x', 10000), 0);
SELECT remaining FROM rl_peek('api', repeat('x', 9999), 0);
CREATE TABLE toasted (key text);
ALTER TABLE toasted ALTER key SET STORAGE EXTERNAL;
INSERT INTO toasted VALUES (repeat('x', 10000));
SELECT p.remaining FROM toasted, rl_peek('api', key, 0) AS p;

-- Only in memory:
-- Planning takes nothing, a READ ONLY transaction is limited, and no transaction id is assigned.
EXPLAIN (COSTS OFF) SELECT rl_try_acquire('api', 'i');
EXPLAIN (COSTS OFF) SELECT * FROM rl_check('api', 'i');
BEGIN READ ONLY;
SELECT rl_take('api', 'i', 5), rl_try_acquire('api', 'i');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;

-- What was taken stays taken.
BEGIN;
SELECT rl_take('api', 'j', 2);
ROLLBACK;
SELECT remaining FROM rl_peek('api', 'j', 0);
