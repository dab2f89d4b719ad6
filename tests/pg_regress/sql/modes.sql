-- What a limiter does when it refuses.
SELECT rl_create_limiter('try', '2 per 1000 years', 'fixed_window', mode => 'shadow');
SELECT rl_create_limiter('idle', '2 per 1000 years', 'fixed_window', mode => 'off');
SELECT rl_create_limiter('real', '2 per 1000 years', 'fixed_window');

-- Shadow: decides and counts, always allows, and says what would have refused.
SELECT allowed, quota, remaining, retry_after > '0' AS waits, reason FROM rl_check('try', 'a');
SELECT rl_try_acquire('try', 'a');
SELECT allowed, quota, remaining, retry_after > '0' AS waits, reason FROM rl_check('try', 'a');
SELECT allowed, remaining, reason FROM rl_peek('try', 'a');
SELECT allowed, remaining, retry_after, reason FROM rl_check('try', 'a', 3);
SELECT rl_try_acquire('try', 'a'), rl_enforce('try', 'a'), rl_try_acquire_many('try', '{a,b}');
SELECT rl_take('try', 'a', 10), rl_take('try', 'c', 10);
SELECT remaining FROM rl_peek('try', 'c', 0);
SELECT allowed, reason FROM rl_acquire('try', 'a');
SELECT reserved, wait, reason FROM rl_reserve('try', 'a');
SELECT rl_refund('try', 'a'), rl_penalize('try', 'b');
SELECT (rl_peek('try', 'a', 0)).remaining AS a, (rl_peek('try', 'b', 0)).remaining AS b;
SELECT rl_http_headers('try', 'b') - '{RateLimit,X-RateLimit-Reset}'::text[] AS headers;

-- Off: allows without counting.
SELECT * FROM rl_check('idle', 'a', 100);
SELECT * FROM rl_peek('idle', 'a', 100);
SELECT rl_try_acquire('idle', 'a', 100), rl_take('idle', 'a', 100), rl_enforce('idle', 'a', 100), rl_penalize('idle', 'a', 5);
SELECT allowed, remaining FROM rl_acquire('idle', 'a', 100);
SELECT reserved, wait, remaining FROM rl_reserve('idle', 'a', 100);
SELECT rl_http_headers('idle', 'a');
UPDATE rl_limiters SET mode = 'enforce' WHERE name = 'idle';
SELECT remaining FROM rl_peek('idle', 'a', 0);

-- Together: only what is enforced can refuse, and what is in shadow takes nothing when it does.
SELECT allowed, remaining, reason, limiter FROM rl_check_all('{real,try}', '{d,d}', '{1,2}');
SELECT allowed, remaining, reason, limiter FROM rl_check_all('{real,try}', '{d,d}');
SELECT allowed, remaining, reason, limiter FROM rl_check_all('{real,try}', '{d,e}');
SELECT remaining FROM rl_peek('try', 'e', 0);
UPDATE rl_limiters SET mode = 'off' WHERE name = 'try';
SELECT allowed, remaining, reason, limiter FROM rl_check_all('{try,real}', '{f,f}', '{9,2}');
SELECT allowed, remaining, reason, limiter FROM rl_check_all('{try,try}', '{f,g}', '{9,9}');

-- Slots.
SELECT rl_create_limiter('slots', max_concurrent => 1, mode => 'shadow');
SELECT rl_try_session_slot('slots', 'a'), rl_try_session_slot('slots', 'a'), rl_session_slot('slots', 'a', '1 hour');
SELECT count(*) FROM rl_slots;
SELECT allowed, quota, remaining, reason FROM rl_check('slots', 'a');
SELECT rl_try_lease('slots', 'a', '1 hour') IS NULL AS refused, rl_lease('slots', 'a', '1 hour') IS NULL AS refused;
SELECT rl_release_session_slot('slots', 'a'), rl_release_session_slot('slots', 'a');
UPDATE rl_limiters SET mode = 'off' WHERE name = 'slots';
SELECT rl_try_session_slot('slots', 'a'), rl_slot('slots', 'a'), rl_try_lease('slots', 'a', '1 hour') IS NULL AS refused;
SELECT count(*) FROM rl_slots;

-- Triggers.
CREATE TABLE log (who text);
CREATE TRIGGER quota BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION rl_limit_row('real', '{who}');
\set VERBOSITY terse
INSERT INTO log SELECT 'h' FROM generate_series(1, 3);
\set VERBOSITY default
UPDATE rl_limiters SET mode = 'shadow' WHERE name = 'real';
INSERT INTO log SELECT 'h' FROM generate_series(1, 3);
SELECT count(*) FROM log;

UPDATE rl_limiters SET mode = 'sometimes';
\set SHOW_CONTEXT never
SELECT rl_create_limiter('none', '1 per day', mode => NULL);

DROP TABLE log;
DROP EXTENSION ratelimit;
