CREATE FUNCTION _rl_grant(role regrole, functions text[]) RETURNS SETOF text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    signature regprocedure;
BEGIN
    IF role IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'role must not be null';
    END IF;
    -- Any number can be written as a regrole.
    IF NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = role) THEN
        RAISE undefined_object USING
            MESSAGE = format('role "%s" does not exist', role),
            HINT = 'Create it with CREATE ROLE.';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO %s', '@extschema@'::regnamespace, role);
    RETURN QUERY SELECT format('USAGE ON SCHEMA %s', '@extschema@'::regnamespace);
    FOR signature IN
        SELECT p.oid::regprocedure
          FROM pg_depend AS d
          JOIN pg_proc AS p ON p.oid = d.objid
         WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
           AND d.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'ratelimit')
           AND left(p.proname::text, 1) <> '_'
           -- Keys may be personal data: who may see them is in pg_read_all_stats.
           AND CASE WHEN functions IS NULL THEN p.proname <> 'rl_stat_keys' ELSE p.proname = ANY (functions) END
         ORDER BY p.proname
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', signature, role);
        RETURN QUERY SELECT format('EXECUTE ON FUNCTION %s', signature);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _rl_grant IS 'internal: grants functions of the extension; null stands for all';

-- SECURITY DEFINER, so that an administrator can pass on what the extension's owner granted.
CREATE FUNCTION rl_grant_usage(role regrole) RETURNS SETOF text
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT @extschema@._rl_grant(role, ARRAY[
            'rl_acquire', 'rl_check', 'rl_check_all', 'rl_enforce', 'rl_http_headers', 'rl_limit_row', 'rl_limit_statement', 'rl_peek',
            'rl_lease', 'rl_penalize', 'rl_refund', 'rl_release_lease', 'rl_release_session_slot', 'rl_renew_lease',
            'rl_reserve', 'rl_session_slot', 'rl_simulate', 'rl_sliding_check', 'rl_slot', 'rl_take', 'rl_throttle', 'rl_try_acquire',
            'rl_try_acquire_many', 'rl_try_lease', 'rl_try_session_slot', 'rl_try_slot'])
    $$;
COMMENT ON FUNCTION rl_grant_usage IS 'lets a role decide, wait, peek, refund, penalize, hold slots and leases, simulate and ask for headers; returns what was granted';

CREATE FUNCTION rl_grant_admin(role regrole) RETURNS SETOF text
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT @extschema@._rl_grant(role, NULL) $$;
COMMENT ON FUNCTION rl_grant_admin IS 'lets a role use all functions of the extension, but for rl_stat_keys, which shows keys to pg_read_all_stats; returns what was granted';

-- PostgreSQL lets everybody execute new functions; anybody could then use up the limits of others. What an update finds is left alone:
-- a REVOKE in a script makes all that users granted by then the extension's own, which pg_dump leaves out.
DO $$
DECLARE
    signature pg_catalog.regprocedure;
BEGIN
    FOR signature IN
        SELECT d.objid::pg_catalog.regprocedure
          FROM pg_catalog.pg_depend AS d
          LEFT JOIN pg_catalog.pg_init_privs AS i
            ON i.classoid OPERATOR(pg_catalog.=) d.classid AND i.objoid OPERATOR(pg_catalog.=) d.objid
         WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
           AND d.deptype OPERATOR(pg_catalog.=) 'e'
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
           AND d.refobjid OPERATOR(pg_catalog.=) (
               SELECT e.oid FROM pg_catalog.pg_extension AS e WHERE e.extname OPERATOR(pg_catalog.=) 'ratelimit')
           AND (i.initprivs IS NULL
                OR EXISTS (SELECT FROM pg_catalog.aclexplode(i.initprivs) AS a WHERE a.grantee OPERATOR(pg_catalog.=) 0))
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
    END LOOP;
END
$$;
