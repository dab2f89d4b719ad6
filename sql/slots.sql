-- VOLATILE, RESTRICTED and not STRICT for the same reasons as the calls for rates. Those of leases write rows where no memory is shared,
-- which cannot be done in a parallel query at all.

CREATE FUNCTION rl_try_slot(limiter text, key text)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_try_slot';
COMMENT ON FUNCTION rl_try_slot IS 'takes a slot until the transaction ends, or none; never waits';

CREATE FUNCTION rl_slot(limiter text, key text, timeout interval DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_slot';
COMMENT ON FUNCTION rl_slot IS 'waits its turn for a slot, and holds it until the transaction ends; null waits as long as the limiter says, else for ever';

CREATE FUNCTION rl_try_session_slot(limiter text, key text)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_try_session_slot';
COMMENT ON FUNCTION rl_try_session_slot IS 'takes a slot until it is released or the session ends, or none; never waits';

CREATE FUNCTION rl_session_slot(limiter text, key text, timeout interval DEFAULT NULL)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_session_slot';
COMMENT ON FUNCTION rl_session_slot IS 'waits its turn for a slot, and holds it until it is released or the session ends';

CREATE FUNCTION rl_release_session_slot(limiter text, key text)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_release_session_slot';
COMMENT ON FUNCTION rl_release_session_slot IS 'gives back the slot of the key that the session took last; says whether it had one';

CREATE FUNCTION rl_try_lease(limiter text, key text, ttl interval)
    RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'rl_try_lease';
COMMENT ON FUNCTION rl_try_lease IS 'takes a slot for so long, and returns the token that frees it; null if all are taken';

CREATE FUNCTION rl_lease(limiter text, key text, ttl interval, timeout interval DEFAULT NULL)
    RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'rl_lease';
COMMENT ON FUNCTION rl_lease IS 'waits its turn for a slot, and holds it for so long; null if that is not before the timeout';

CREATE FUNCTION rl_renew_lease(token uuid, ttl interval)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'rl_renew_lease';
COMMENT ON FUNCTION rl_renew_lease IS 'lets a lease end so long from now; false if it has ended already';

CREATE FUNCTION rl_release_lease(token uuid)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'rl_release_lease';
COMMENT ON FUNCTION rl_release_lease IS 'ends a lease; false if it has ended already';

CREATE FUNCTION _rl_slots(OUT limiter uuid, OUT key text, OUT kind text, OUT pid integer, OUT token uuid,
    OUT since timestamptz, OUT expires_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', '_rl_slots';
COMMENT ON FUNCTION _rl_slots IS 'internal: the slots that are taken in this database';
GRANT EXECUTE ON FUNCTION _rl_slots() TO pg_read_all_stats;

CREATE VIEW @extschema@.rl_slots AS
    SELECT l.name AS limiter, s.key, s.kind, s.pid, s.token, s.since, s.expires_at
      FROM @extschema@._rl_slots() AS s
      LEFT JOIN @extschema@.rl_limiters AS l ON l.id OPERATOR(pg_catalog.=) s.limiter;
COMMENT ON VIEW rl_slots IS 'who holds a slot, of which kind, since when and until when; a long key is cut';
COMMENT ON COLUMN rl_slots.limiter IS 'the limiter; null if it was dropped';
COMMENT ON COLUMN rl_slots.key IS 'the key';
COMMENT ON COLUMN rl_slots.kind IS 'transaction, session or lease';
COMMENT ON COLUMN rl_slots.pid IS 'the server process that holds it; null for a lease';
COMMENT ON COLUMN rl_slots.token IS 'what frees a lease';
COMMENT ON COLUMN rl_slots.since IS 'when it was taken';
COMMENT ON COLUMN rl_slots.expires_at IS 'when a lease ends by itself';
GRANT SELECT ON @extschema@.rl_slots TO pg_read_all_stats;
