-- A transaction that holds a slot cannot be prepared: who would give it back?
-- setting: max_prepared_transactions = 5
SELECT rl_create_limiter('export', '10 per day', max_concurrent => 2);
BEGIN;
SELECT rl_try_slot('export', 'a');
PREPARE TRANSACTION 'p';
SELECT count(*) FROM rl_slots;
BEGIN;
SELECT rl_try_acquire('export', 'a');
PREPARE TRANSACTION 'p';
SELECT count(*) FROM rl_slots;

-- Those of sessions, and leases, are not the transaction's; nor is what a savepoint gave back.
BEGIN;
SAVEPOINT s;
SELECT rl_try_slot('export', 'a');
ROLLBACK TO s;
SELECT rl_try_lease('export', 'a', '1 hour') IS NOT NULL AS leased;
CREATE TABLE prepared ();
PREPARE TRANSACTION 'p';
SELECT key, kind FROM rl_slots;
COMMIT PREPARED 'p';
SELECT key, kind FROM rl_slots;
SELECT rl_release_lease(token) FROM rl_slots;
SELECT rl_try_session_slot('export', 'a');
BEGIN;
DROP TABLE prepared;
PREPARE TRANSACTION 'p';
SELECT key, kind FROM rl_slots;
ROLLBACK PREPARED 'p';
SELECT rl_release_session_slot('export', 'a');
SELECT count(*) FROM rl_slots;
