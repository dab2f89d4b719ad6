\echo Use "ALTER EXTENSION ratelimit UPDATE" to load this file. \quit
-- From the last release, @RELEASED@, to this version. Lines "-- create FILE" and "-- replace FILE" stand for files of this folder: see dev/lib.sh.

-- The library of the last release does not have what is declared here.
DO $$
BEGIN
    IF (SELECT known.library_version FROM @extschema@._rl_info() AS known) OPERATOR(pg_catalog.=) '@RELEASED@' THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'the server still runs version @RELEASED@ of the library',
            HINT = 'Restart it, or begin a new session if it does not preload the library, and then update again.';
    END IF;
END
$$;

-- Sessions read definitions again: there may be something that they looked for in vain.
UPDATE @extschema@.rl_limiters SET name = name WHERE false;

-- What has changed since:

-- Another rule may become the first, whose quota and burst overrides replace.
CREATE OR REPLACE TRIGGER valid AFTER INSERT OR UPDATE OR DELETE ON @extschema@.rl_rules
    FOR EACH ROW EXECUTE FUNCTION @extschema@._rl_check_definition();

-- create overrides.sql

-- create bans.sql

-- create stats.sql

-- create storage.sql

-- replace limiters.sql

-- create documents.sql

-- replace privileges.sql

-- What GRANT would do, but that in a script it makes all that users granted by then the extension's own, which pg_dump leaves out. Of a
-- role that comes with PostgreSQL no dependency is recorded.
WITH granted AS (
    SELECT p.oid, pg_catalog.makeaclitem('pg_read_all_stats'::pg_catalog.regrole, p.proowner, 'EXECUTE', false) AS item
      FROM pg_catalog.pg_proc AS p
     WHERE p.oid OPERATOR(pg_catalog.=) '@extschema@.rl_info()'::pg_catalog.regprocedure
), recorded AS (
    UPDATE pg_catalog.pg_init_privs AS i
       SET initprivs = i.initprivs OPERATOR(pg_catalog.||) granted.item
      FROM granted
     WHERE i.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass AND i.objoid OPERATOR(pg_catalog.=) granted.oid
)
UPDATE pg_catalog.pg_proc AS p
   SET proacl = p.proacl OPERATOR(pg_catalog.||) granted.item
  FROM granted
 WHERE p.oid OPERATOR(pg_catalog.=) granted.oid AND NOT pg_catalog.aclcontains(p.proacl, granted.item);
