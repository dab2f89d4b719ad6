-- Wrong calls for slots and leases: each is an error that says what to do, and takes nothing.
CREATE FUNCTION answer(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement INTO answer;
    RETURN 'answer: ' || coalesce(answer, 'null');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ': ' || SQLERRM || coalesce(E'\n  DETAIL: ' || nullif(detail, ''), '') || coalesce(E'\n  HINT: ' || nullif(hint, ''), '');
END
$$;
\pset format unaligned
\pset tuples_only on
SELECT rl_create_limiter('export', max_concurrent => 1);
SELECT rl_create_limiter('api', '3 per day');

SELECT answer(format('SELECT %s', call)) FROM (VALUES
    ('rl_try_slot(NULL, ''a'')'), ('rl_try_slot(''export'', NULL)'),
    ('rl_slot(NULL, ''a'')'), ('rl_slot(''export'', NULL)'),
    ('rl_try_session_slot(NULL, ''a'')'), ('rl_try_session_slot(''export'', NULL)'),
    ('rl_session_slot(NULL, ''a'')'), ('rl_session_slot(''export'', NULL)'),
    ('rl_release_session_slot(NULL, ''a'')'), ('rl_release_session_slot(''export'', NULL)'),
    ('rl_try_lease(NULL, ''a'', ''1 s'')'), ('rl_try_lease(''export'', NULL, ''1 s'')'), ('rl_try_lease(''export'', ''a'', NULL)'),
    ('rl_lease(NULL, ''a'', ''1 s'')'), ('rl_lease(''export'', NULL, ''1 s'')'), ('rl_lease(''export'', ''a'', NULL)'),
    ('rl_renew_lease(NULL, ''1 s'')'), ('rl_renew_lease(gen_random_uuid(), NULL)'), ('rl_release_lease(NULL)')) AS calls(call);

-- No limiter.
SELECT answer(format('SELECT %s', call)) FROM (VALUES
    ('rl_try_slot(''nope'', ''a'')'), ('rl_slot(''nope'', ''a'')'), ('rl_try_session_slot(''nope'', ''a'')'), ('rl_session_slot(''nope'', ''a'')'),
    ('rl_release_session_slot(''nope'', ''a'')'), ('rl_try_lease(''nope'', ''a'', ''1 s'')'), ('rl_lease(''nope'', ''a'', ''1 s'')')) AS calls(call);

-- One without slots.
SELECT answer($$SELECT rl_try_slot('api', 'a')$$);
SELECT answer($$SELECT rl_slot('api', 'a')$$);
SELECT answer($$SELECT rl_try_session_slot('api', 'a')$$);
SELECT answer($$SELECT rl_session_slot('api', 'a')$$);
SELECT answer($$SELECT rl_release_session_slot('api', 'a')$$);
SELECT answer($$SELECT rl_try_lease('api', 'a', '1 s')$$);
SELECT answer($$SELECT rl_lease('api', 'a', '1 s')$$);

-- No time.
SELECT answer($$SELECT rl_slot('export', 'a', '-1 microsecond')$$);
SELECT answer($$SELECT rl_session_slot('export', 'a', '-1 month')$$);
SELECT answer($$SELECT rl_lease('export', 'a', '1 s', '-1 s')$$);
SELECT answer($$SELECT rl_try_lease('export', 'a', '0')$$);
SELECT answer($$SELECT rl_try_lease('export', 'a', '-1 s')$$);
SELECT answer($$SELECT rl_lease('export', 'a', '1 day -24 hours')$$);
SELECT answer($$SELECT rl_renew_lease(gen_random_uuid(), '0')$$);

-- Definitions.
SELECT answer($$SELECT rl_create_limiter('new')$$);
SELECT answer($$SELECT rl_create_limiter('new', max_concurrent => -1)$$);

-- None of it has taken anything.
SELECT count(*) FROM rl_slots;
SELECT answer($$SELECT rl_try_slot('export', 'a')$$);
