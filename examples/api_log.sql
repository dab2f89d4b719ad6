-- A trigger on a log table: no client can get more rows in than its quota, whatever it runs.
BEGIN;
CREATE EXTENSION IF NOT EXISTS ratelimit;

-- Each user of each tenant may log 3 requests a minute.
SELECT rl_create_limiter('example_api', '3 per minute');

CREATE TEMP TABLE api_log (tenant int, account text, path text, at timestamptz DEFAULT now());
CREATE TRIGGER quota BEFORE INSERT ON api_log
    FOR EACH ROW EXECUTE FUNCTION rl_limit_row('example_api', '{tenant}:{account}');

-- Within the quota nobody notices the trigger. Another account has a quota of its own.
INSERT INTO api_log VALUES (7, 'ann', '/a'), (7, 'ann', '/b'), (7, 'ann', '/c'), (7, 'bob', '/a');

-- The fourth row within a minute fails, with an SQLSTATE that PostgREST turns into HTTP 429, and says how long to wait.
DO $$
DECLARE
    detail text;
BEGIN
    INSERT INTO api_log VALUES (7, 'ann', '/d');
    RAISE 'this was to be refused';
EXCEPTION WHEN SQLSTATE 'PT429' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE '% / %', SQLERRM, detail;
END
$$;

-- With 'skip', the rows above the quota are left out and the others go in: 3 of these 1000.
DROP TRIGGER quota ON api_log;
CREATE TRIGGER quota BEFORE INSERT ON api_log
    FOR EACH ROW EXECUTE FUNCTION rl_limit_row('example_api', '{tenant}:{account}', 'skip');
INSERT INTO api_log SELECT 8, 'eve', '/' || n FROM generate_series(1, 1000) AS n;

SELECT tenant, account, count(*) FROM api_log GROUP BY tenant, account ORDER BY tenant, account;

-- Would another limit have served better? Ask the log.
SELECT l.account, rates, count(*) FILTER (WHERE NOT s.allowed) AS refused
  FROM (SELECT account, array_agg(at ORDER BY at) AS times FROM api_log GROUP BY account) AS l
 CROSS JOIN (VALUES ('2 per minute'), ('10 per hour burst 1')) AS candidates (rates)
 CROSS JOIN rl_simulate(rates, l.times) AS s
 GROUP BY l.account, rates
 ORDER BY l.account, rates;

ROLLBACK;
