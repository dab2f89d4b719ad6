-- What the extension consists of, and who may use it.
SELECT pg_describe_object(classid, objid, objsubid) COLLATE "C" AS object
  FROM pg_depend
 WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ratelimit')
   -- The types of tables' rows come with the tables.
   AND (classid <> 'pg_type'::regclass OR EXISTS (SELECT FROM pg_enum WHERE enumtypid = objid))
 ORDER BY 1;

-- No function has two meanings: drivers send untyped parameters.
SELECT proname, count(*) FROM pg_proc WHERE proname LIKE 'rl\_%' GROUP BY 1 HAVING count(*) > 1;

-- Everything has a comment.
SELECT pg_describe_object(d.classid, d.objid, 0)
  FROM pg_depend AS d LEFT JOIN pg_description AS c ON c.classoid = d.classid AND c.objoid = d.objid AND c.objsubid = 0
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.description IS NULL
   AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'ratelimit')
   AND (d.classid <> 'pg_type'::regclass OR EXISTS (SELECT FROM pg_enum WHERE enumtypid = objid));

-- Nobody may do anything who was not granted it.
CREATE ROLE surface_app;
CREATE ROLE surface_admin;
SELECT rl_create_limiter('api', '10 per day');
SET ROLE surface_app;
SELECT rl_try_acquire('api', 'a');
SELECT rl_info();
SELECT * FROM rl_limiters;
RESET ROLE;
SELECT count(*) FROM pg_proc WHERE proname LIKE '%rl\_%' AND has_function_privilege('surface_app', oid, 'EXECUTE');

-- Usage: decides and looks, nothing else; cannot read definitions or switch them off.
SELECT rl_grant_usage('surface_app');
SET ROLE surface_app;
SELECT rl_try_acquire('api', 'a'), remaining FROM rl_peek('api', 'a');
SELECT rl_create_limiter('mine', '10 per day');
SELECT rl_reset('api', 'a');
SELECT rl_info();
SELECT rl_purge();
SELECT * FROM rl_rules;
SET ratelimit.enabled = off;
SET ratelimit.on_full = 'allow';
RESET ROLE;

-- Admin: all functions, and still no table.
SELECT count(*) FROM rl_grant_admin('surface_admin');
SET ROLE surface_admin;
SELECT rl_create_limiter('mine', '10 per day'), rl_clone_limiter('mine', 'yours'), rl_drop_limiter('yours');
SELECT rl_reset('api', 'a'), rl_reset_all('mine');
SELECT rl_purge();
SELECT last_purge > now() - interval '1 hour' AS recent FROM rl_info();
SELECT preloaded, library_version = extension_version FROM rl_info();
DELETE FROM rl_limiters;
RESET ROLE;
SELECT rl_grant_usage(NULL);

-- The emergency switch.
SET ratelimit.enabled = off;
SELECT * FROM rl_check('api', 'off', 1000);
SELECT rl_try_acquire('api', 'off', 1000), rl_take('api', 'off', 1000);
SELECT rl_try_acquire('nope', 'off');
SET ratelimit.enabled = on;
SELECT remaining FROM rl_peek('api', 'off', 0);
SET ratelimit.unknown = 1;

-- Headers.
SELECT rl_http_headers('mine', 'a');
SELECT rl_take('mine', 'a', 10);
SELECT jsonb_object_agg(key, regexp_replace(value, '(8639\d|8640\d|7776\d|864000?)\M', '<time>', 'g'))
  FROM jsonb_each_text(rl_http_headers('mine', 'a'));
SELECT rl_create_limiter('größe "1"', '0/second, 5/hour burst 10');
SELECT rl_http_headers('größe "1"', 'a');

DROP OWNED BY surface_app, surface_admin;
DROP ROLE surface_app, surface_admin;
DROP EXTENSION ratelimit;
