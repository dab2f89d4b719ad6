-- Limits on the rows of a table, whoever writes them.
\set SHOW_CONTEXT never
SELECT rl_create_limiter('rows', '3 per day');
CREATE TABLE api_log (tenant_id int, user_id text, bytes bigint, at timestamptz DEFAULT now());
CREATE TRIGGER quota BEFORE INSERT ON api_log
    FOR EACH ROW EXECUTE FUNCTION rl_limit_row('rows', '{tenant_id}:{user_id}', 'skip');
INSERT INTO api_log SELECT 1, 'ann' FROM generate_series(1, 5);
INSERT INTO api_log VALUES (2, 'ann'), (1, 'ann');
SELECT tenant_id, user_id, count(*) FROM api_log GROUP BY 1, 2 ORDER BY 1;
SELECT remaining FROM rl_peek('rows', '1:ann', 0);
COPY api_log (tenant_id, user_id) FROM stdin;
3	bob
3	bob
3	bob
3	bob
\.
SELECT count(*) FROM api_log WHERE tenant_id = 3;

-- Different rows have different keys.
INSERT INTO api_log VALUES (4, 'a:b'), (4, NULL), (4, '\N'), (4, 'a\b');
SELECT key, remaining FROM unnest(ARRAY['4:a\:b', '4:\N', '4:\\N', '4:a\\b', '4:a:b']) AS key, rl_peek('rows', key, 0);
DROP TRIGGER quota ON api_log;

-- Raising is the default; the cost may come from a column.
SELECT rl_create_limiter('bytes', '0 per day');
CREATE TRIGGER quota BEFORE INSERT OR UPDATE ON api_log
    FOR EACH ROW EXECUTE FUNCTION rl_limit_row('bytes', 'all', 'raise', 'bytes');
INSERT INTO api_log VALUES (1, 'ann', 100);
\echo :LAST_ERROR_SQLSTATE
UPDATE rl_rules SET quota = 1000 WHERE limiter = 'bytes';
INSERT INTO api_log VALUES (1, 'ann', 400);
UPDATE api_log SET bytes = bytes + 100 WHERE bytes = 400;
SELECT remaining FROM rl_peek('bytes', 'all', 0);
INSERT INTO api_log VALUES (1, 'ann', NULL);
\echo :LAST_ERROR_SQLSTATE
INSERT INTO api_log VALUES (1, 'ann', -1);
DROP TRIGGER quota ON api_log;

-- Before DELETE, the old row's values.
SELECT rl_create_limiter('deletes', '1 per day');
CREATE TABLE items (id int, owner text, twice int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO items VALUES (1, 'ann'), (2, 'ann'), (3, 'bob');
CREATE TRIGGER quota BEFORE DELETE ON items FOR EACH ROW EXECUTE FUNCTION rl_limit_row('deletes', '{{{owner}}}', 'skip');
DELETE FROM items;
SELECT * FROM items;
SELECT remaining FROM rl_peek('deletes', '{bob}', 0);

-- Once for a statement, as much as it has rows of each key; if one key may not, none is charged.
SELECT rl_create_limiter('bulk', '5 per day');
CREATE TABLE events (tenant text, n int);
CREATE TRIGGER quota AFTER INSERT ON events REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION rl_limit_statement('bulk', '{tenant}');
INSERT INTO events SELECT 'a', n FROM generate_series(1, 3) AS n;
\set VERBOSITY sqlstate
INSERT INTO events SELECT CASE WHEN n <= 2 THEN 'b' ELSE 'a' END, n FROM generate_series(1, 5) AS n;
\set VERBOSITY default
SELECT rl_take('bulk', 'a', 10), rl_take('bulk', 'b', 10), (SELECT count(*) FROM events);
INSERT INTO events SELECT 'a', n FROM generate_series(1, 0) AS n;

-- What CREATE TRIGGER could not know, the first row says.
CREATE FUNCTION refused(create_trigger text, dml text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE 'DROP TRIGGER IF EXISTS quota ON items';
    EXECUTE 'CREATE TRIGGER quota ' || create_trigger;
    EXECUTE dml;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''));
END
$$;
SELECT refused('BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION ' || call, 'INSERT INTO items VALUES (1, ''x'')')
  FROM unnest(ARRAY['rl_limit_row()', 'rl_limit_row(''rows'')', 'rl_limit_row(''rows'', ''{nope}'')', 'rl_limit_row(''rows'', ''{twice}'')',
      'rl_limit_row(''rows'', ''{id'')', 'rl_limit_row(''rows'', ''id}'')', 'rl_limit_row(''rows'', ''{}'')',
      'rl_limit_row(''rows'', ''{id}{owner}'')', 'rl_limit_row(''rows'', ''{id}'', ''ignore'')',
      'rl_limit_row(''rows'', ''{id}'', ''skip'', ''nope'')', 'rl_limit_row(''rows'', ''{id}'', ''skip'', ''owner'')',
      'rl_limit_row(''nope'', ''{id}'')', 'rl_limit_row(''rows'', ''{id}'', ''skip'', ''id'', ''more'')',
      'rl_limit_statement(''rows'', ''{id}'')']) AS call;
SELECT refused('AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION rl_limit_row(''rows'', ''{id}'')', 'INSERT INTO items VALUES (1, ''x'')');
SELECT refused('AFTER INSERT ON items FOR EACH STATEMENT EXECUTE FUNCTION rl_limit_statement(''rows'', ''{id}'')', 'INSERT INTO items VALUES (1, ''x'')');
SELECT rl_limit_row();
