-- Concurrency slots of transactions and sessions: how many may go on at once for a key.
SELECT rl_create_limiter('export', max_concurrent => 3);
CREATE VIEW held AS
    SELECT limiter, key, kind, count(*), bool_and(pid = pg_backend_pid() AND token IS NULL AND expires_at IS NULL
                                                  AND since BETWEEN now() - interval '1 hour' AND clock_timestamp()) AS as_taken
      FROM rl_slots GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- Each call takes one more, until none is left; another key has its own. The transaction's end gives all back.
BEGIN;
SELECT n, rl_try_slot('export', 'a') FROM generate_series(1, 4) AS n;
SELECT rl_try_slot('export', 'b');
SELECT * FROM held;
COMMIT;
SELECT * FROM held;
BEGIN;
SELECT n, rl_try_slot('export', 'a') FROM generate_series(1, 4) AS n;
ROLLBACK;
SELECT * FROM held;
-- Outside of a transaction block it ends with the statement.
SELECT rl_try_slot('export', 'a') FROM generate_series(1, 4);
SELECT * FROM held;

-- One that waits: at once where there is room; as long as it is told, where there is none.
BEGIN;
SELECT n, rl_slot('export', 'a') FROM generate_series(1, 3) AS n;
SELECT rl_slot('export', 'a', '0'), rl_slot('export', 'a', timeout => '1 millisecond');
ROLLBACK;
-- As long as the limiter says.
UPDATE rl_limiters SET wait_timeout = '1 millisecond' WHERE name = 'export';
BEGIN;
SELECT n, rl_slot('export', 'a') FROM generate_series(1, 4) AS n;
ROLLBACK;

-- A savepoint gives back what was taken after it, and nothing else.
BEGIN;
SELECT rl_try_slot('export', 'a');
SAVEPOINT s;
SELECT rl_try_slot('export', 'a'), rl_try_slot('export', 'a'), rl_try_slot('export', 'a');
ROLLBACK TO s;
SELECT * FROM held;
SELECT rl_try_slot('export', 'a');
RELEASE s;
SELECT * FROM held;
SAVEPOINT t;
SELECT rl_try_slot('export', 'a'), rl_try_slot('export', 'a');
SAVEPOINT u;
SELECT 1 / 0;
ROLLBACK TO t;
SELECT * FROM held;
-- An EXCEPTION block is a savepoint.
DO $$
BEGIN
    PERFORM rl_try_slot('export', 'a');
    RAISE 'no';
EXCEPTION WHEN OTHERS THEN
    NULL;
END
$$;
SELECT * FROM held;
COMMIT;
SELECT * FROM held;

-- A procedure's COMMIT ends a transaction.
CREATE PROCEDURE work() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..5 LOOP
        IF NOT rl_try_slot('export', 'a') THEN RAISE 'none left'; END IF;
        IF n % 2 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
END
$$;
CALL work();

-- A slot of the session stays, whatever becomes of transactions.
SELECT rl_try_session_slot('export', 'a');
BEGIN;
SELECT rl_session_slot('export', 'a'), rl_try_slot('export', 'a');
SELECT * FROM held;
ROLLBACK;
SELECT * FROM held;
SELECT rl_release_session_slot('export', 'a'), rl_release_session_slot('export', 'a'), rl_release_session_slot('export', 'a');
SELECT * FROM held;
-- What is released in a transaction is free at once, and stays so.
SELECT rl_try_session_slot('export', 'a');
BEGIN;
SELECT rl_release_session_slot('export', 'a');
SELECT * FROM held;
ROLLBACK;
SELECT * FROM held;
-- Only sessions' slots are released by name, and only one's own key's.
BEGIN;
SELECT rl_try_slot('export', 'a');
SELECT rl_release_session_slot('export', 'a'), rl_release_session_slot('export', 'never seen');
ROLLBACK;

-- Seen as advisory locks, of a class of their own, one for each slot: applications' locks are others.
BEGIN;
SELECT rl_try_slot('export', 'a'), rl_try_slot('export', 'a'), rl_try_session_slot('export', 'a');
CREATE TABLE seen AS SELECT classid::bigint << 32 | objid::bigint AS id, objsubid, mode, granted FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory';
SELECT count(DISTINCT id), objsubid, mode, granted FROM seen GROUP BY 2, 3, 4;
SELECT bool_and(pg_try_advisory_xact_lock(id)) AS free FROM seen;
COMMIT;
SELECT rl_release_session_slot('export', 'a');
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid NOT IN (1, 2);

-- pg_advisory_unlock_all and DISCARD ALL free slots of the session, not those of a transaction.
SELECT rl_try_session_slot('export', 'a'), rl_try_session_slot('export', 'b');
SELECT pg_advisory_unlock_all();
SELECT * FROM held;
SELECT rl_release_session_slot('export', 'a');
SELECT rl_try_session_slot('export', 'a'), rl_try_session_slot('export', 'b');
DISCARD ALL;
SELECT * FROM held;
BEGIN;
SELECT rl_try_slot('export', 'a'), rl_try_session_slot('export', 'b');
SELECT pg_advisory_unlock_all();
SELECT limiter, key, kind FROM rl_slots WHERE kind = 'transaction';
SELECT rl_release_session_slot('export', 'b');
COMMIT;
SELECT * FROM held;

-- None at all.
SELECT rl_create_limiter('none', max_concurrent => 0);
SELECT rl_try_slot('none', 'a'), rl_try_session_slot('none', 'a'), rl_slot('none', 'a', '1 millisecond');

-- The definition may change while slots are held: nobody has to go, and the next call obeys.
BEGIN;
SELECT rl_try_slot('export', 'a'), rl_try_slot('export', 'a');
UPDATE rl_limiters SET max_concurrent = 1 WHERE name = 'export';
SELECT rl_try_slot('export', 'a');
SELECT * FROM held;
UPDATE rl_limiters SET max_concurrent = 4 WHERE name = 'export';
SELECT rl_try_slot('export', 'a'), rl_try_slot('export', 'a'), rl_try_slot('export', 'a');
UPDATE rl_limiters SET name = 'renamed' WHERE name = 'export';
SELECT rl_try_slot('renamed', 'a');
SELECT * FROM held;
SELECT rl_drop_limiter('renamed');
SELECT * FROM held;
-- Another one of the same name starts afresh.
SELECT rl_create_limiter('renamed', max_concurrent => 1);
SELECT rl_try_slot('renamed', 'a'), rl_try_slot('renamed', 'a');
ROLLBACK;
SELECT * FROM held;

-- The emergency switch: all pass, none is taken.
SET ratelimit.enabled = off;
SELECT rl_try_slot('none', 'a'), rl_slot('none', 'a'), rl_try_session_slot('none', 'a'), rl_session_slot('none', 'a');
SELECT rl_release_session_slot('none', 'a');
RESET ratelimit.enabled;
SELECT * FROM held;

-- How many there are, and can be.
BEGIN;
SELECT rl_try_slot('export', 'a'), rl_try_slot('export', 'b');
SELECT slots >= 2 AS some, slots < max_slots AS not_all FROM rl_info();
COMMIT;
-- It is sized at the server's start.
SET ratelimit.max_slots = 5;

-- A READ ONLY transaction holds slots, too, and no transaction id is assigned. Planning takes nothing.
EXPLAIN (COSTS OFF) SELECT rl_try_slot('export', 'a');
BEGIN READ ONLY;
SELECT rl_try_slot('export', 'a'), rl_try_session_slot('export', 'a');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
SELECT rl_release_session_slot('export', 'a');
COMMIT;

-- A long key is cut where it is shown, and only there.
BEGIN;
SELECT rl_try_slot('export', repeat('鍵', 1000)), rl_try_slot('export', repeat('鍵', 999) || '!');
SELECT count(*), count(DISTINCT key), min(length(key)), bool_and(repeat('鍵', 1000) LIKE key || '%') AS a_part FROM rl_slots;
COMMIT;

-- Keys may be personal data: who may call may not look.
CREATE ROLE slots_app;
SELECT count(*) > 0 AS granted FROM rl_grant_usage('slots_app');
SET ROLE slots_app;
SELECT rl_try_slot('export', 'a');
SELECT * FROM rl_slots;
RESET ROLE;
GRANT pg_read_all_stats TO slots_app;
BEGIN;
SELECT rl_try_slot('export', 'a');
SET LOCAL ROLE slots_app;
SELECT limiter, key, kind FROM rl_slots;
COMMIT;
DROP OWNED BY slots_app;
DROP ROLE slots_app;
