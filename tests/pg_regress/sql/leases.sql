-- Leases: slots with a token and a time to live, for work that outlives a transaction or its connection.
SELECT rl_create_limiter('upload', max_concurrent => 2);
CREATE VIEW held AS SELECT key, kind, count(*) FROM rl_slots WHERE limiter = 'upload' GROUP BY 1, 2 ORDER BY 1, 2;

-- A token for each, or null where all are taken.
SELECT rl_try_lease('upload', 'a', '1 hour') AS one \gset
SELECT rl_lease('upload', 'a', '1 hour') AS two \gset
SELECT :'one' <> :'two' AS two_tokens, rl_try_lease('upload', 'a', '1 hour') IS NULL AS all_taken;
SELECT rl_lease('upload', 'a', '1 hour', timeout => '1 millisecond') IS NULL AS all_taken;
SELECT substr(:'one', 15, 1) AS version;

-- Nobody's process: it has a token and an end.
SELECT pid, token IN (:'one', :'two') AS known, expires_at - since = '1 hour' AS hour FROM rl_slots WHERE limiter = 'upload';

-- Only in memory:
-- It holds whatever becomes of the transaction, and so does its end.
BEGIN;
SELECT rl_release_lease(:'one');
SELECT rl_try_lease('upload', 'a', '1 hour') AS three \gset
ROLLBACK;
SELECT rl_release_lease(:'one'), rl_release_lease(:'three'), rl_release_lease(:'three');
SELECT rl_try_lease('upload', 'a', '1 hour') AS one \gset
-- In any storage:
SELECT rl_release_lease(:'one');
SELECT * FROM held;

-- Only its token frees it.
SELECT rl_release_lease(gen_random_uuid()), rl_renew_lease(gen_random_uuid(), '1 hour'), rl_release_session_slot('upload', 'a');
DISCARD ALL;
SELECT * FROM held;

-- Renewed, it ends so long from now: later or sooner.
SELECT rl_renew_lease(:'two', '1 day');
SELECT expires_at - clock_timestamp() > '23 hours' AS day FROM rl_slots WHERE token = :'two';
SELECT rl_renew_lease(:'two', '2 hours');
SELECT expires_at - clock_timestamp() BETWEEN '1 hour' AND '2 hours' AS hours FROM rl_slots WHERE token = :'two';

-- It shares max_concurrent with the other kinds.
BEGIN;
SELECT rl_try_slot('upload', 'a'), rl_try_slot('upload', 'a'), rl_try_session_slot('upload', 'a'), rl_try_lease('upload', 'a', '1 s');
SELECT * FROM held;
COMMIT;
SELECT rl_release_lease(:'two');
SELECT * FROM held;

-- Over, it is nobody's: it can be neither renewed nor released, and takes nothing from the next holder.
SELECT rl_try_lease('upload', 'b', '1 hour') AS other, rl_try_lease('upload', 'b', '1 microsecond') AS over \gset
SELECT pg_sleep(0.001);
SELECT * FROM held;
SELECT rl_renew_lease(:'over', '1 hour'), rl_release_lease(:'over');
SELECT rl_try_lease('upload', 'b', '1 hour') AS next \gset
SELECT rl_renew_lease(:'over', '1 hour'), rl_release_lease(:'over'), rl_try_lease('upload', 'b', '1 hour') IS NULL AS all_taken;
-- Who waits gets it when it is over.
SELECT rl_renew_lease(:'next', '10 milliseconds');
SELECT rl_slot('upload', 'b');
SELECT rl_release_lease(:'next'), rl_release_lease(:'other');
SELECT * FROM held;

-- Only in memory:
-- A dropped limiter's leases go on to their end, or their release.
SELECT rl_try_lease('upload', 'c', '1 hour') AS dropped \gset
BEGIN;
SELECT rl_drop_limiter('upload');
SELECT limiter, key, kind FROM rl_slots WHERE token = :'dropped';
SELECT rl_renew_lease(:'dropped', '1 hour'), rl_release_lease(:'dropped');
ROLLBACK;

-- In any storage:
-- Longer than there is time: for ever.
SELECT rl_try_lease('upload', 'd', '1000000 years') AS ages, rl_try_lease('upload', 'd', '250000 years') AS long \gset
SELECT expires_at FROM rl_slots WHERE token = :'ages';
SELECT expires_at BETWEEN '248000-01-01' AND '249000-01-01' AS far FROM rl_slots WHERE token = :'long';
SELECT rl_release_lease(:'ages'), rl_release_lease(:'long');

-- The emergency switch: a token that frees nothing.
SET ratelimit.enabled = off;
SELECT rl_try_lease('upload', 'a', '1 hour') AS one, rl_lease('upload', 'a', '1 hour') AS two \gset
SELECT :'one' <> :'two' AS two_tokens, rl_try_lease('upload', 'a', '1 hour') IS NOT NULL AS passes;
SELECT rl_renew_lease(:'one', '1 hour'), rl_release_lease(:'one');
RESET ratelimit.enabled;
SELECT * FROM held;
