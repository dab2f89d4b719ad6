-- VOLATILE, so that planning a query takes nothing; RESTRICTED, because decisions belong to the session; not STRICT, because a
-- null is an error and not an answer; costly, so that a query's cheaper conditions are looked at first.

CREATE FUNCTION rl_try_acquire(limiter text, key text, cost bigint DEFAULT 1)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_try_acquire';
COMMENT ON FUNCTION rl_try_acquire IS 'takes cost or nothing; never waits';

CREATE FUNCTION rl_check(limiter text, key text, cost bigint DEFAULT 1,
    OUT allowed boolean, OUT quota bigint, OUT remaining bigint,
    OUT retry_after interval, OUT reset_after interval, OUT reason text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_check';
COMMENT ON FUNCTION rl_check IS 'takes cost or nothing, and gives the whole answer';

CREATE FUNCTION rl_peek(limiter text, key text, cost bigint DEFAULT 1,
    OUT allowed boolean, OUT quota bigint, OUT remaining bigint,
    OUT retry_after interval, OUT reset_after interval, OUT reason text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_peek';
COMMENT ON FUNCTION rl_peek IS 'the answer rl_check would give now; changes nothing';

CREATE FUNCTION rl_enforce(limiter text, key text, cost bigint DEFAULT 1)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_enforce';
COMMENT ON FUNCTION rl_enforce IS 'takes cost, or raises PT429';

CREATE FUNCTION rl_acquire(limiter text, key text, cost bigint DEFAULT 1, timeout interval DEFAULT NULL,
    OUT allowed boolean, OUT quota bigint, OUT remaining bigint,
    OUT retry_after interval, OUT reset_after interval, OUT reason text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_acquire';
COMMENT ON FUNCTION rl_acquire IS 'waits its turn and takes cost; refused at once if its turn is not before the timeout; null waits as long as the limiter says, else for ever';

CREATE FUNCTION rl_reserve(limiter text, key text, cost bigint DEFAULT 1, max_wait interval DEFAULT NULL,
    OUT reserved boolean, OUT wait interval, OUT quota bigint, OUT remaining bigint,
    OUT retry_after interval, OUT reset_after interval, OUT reason text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_reserve';
COMMENT ON FUNCTION rl_reserve IS 'takes cost as of its turn, and says how long the client has to wait for that; rl_refund cancels it';

CREATE FUNCTION rl_take(limiter text, key text, at_most bigint)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_take';
COMMENT ON FUNCTION rl_take IS 'takes as many as are left, up to at_most, and says how many';

CREATE FUNCTION rl_refund(limiter text, key text, cost bigint DEFAULT 1)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_refund';
COMMENT ON FUNCTION rl_refund IS 'gives back, never above the capacity';

CREATE FUNCTION rl_penalize(limiter text, key text, cost bigint DEFAULT 1)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_penalize';
COMMENT ON FUNCTION rl_penalize IS 'charges after the fact; may overdraw';

CREATE FUNCTION rl_check_all(limiters text[], keys text[], costs bigint[] DEFAULT NULL,
    OUT allowed boolean, OUT quota bigint, OUT remaining bigint,
    OUT retry_after interval, OUT reset_after interval, OUT reason text, OUT limiter text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_check_all';
COMMENT ON FUNCTION rl_check_all IS 'all or nothing over several limiters and keys; reports the limiter that binds';

CREATE FUNCTION rl_try_acquire_many(limiter text, keys text[], costs bigint[] DEFAULT NULL)
    RETURNS boolean[]
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_try_acquire_many';
COMMENT ON FUNCTION rl_try_acquire_many IS 'one decision for each key, in their order';

CREATE FUNCTION rl_sliding_check(key text, quota bigint, period interval, cost bigint DEFAULT 1,
    OUT allowed boolean, OUT quota bigint, OUT remaining bigint,
    OUT retry_after interval, OUT reset_after interval, OUT reason text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_sliding_check';
COMMENT ON FUNCTION rl_sliding_check IS 'a sliding window given in the call';

CREATE FUNCTION rl_throttle(key text, quota bigint, period interval, burst bigint DEFAULT NULL, cost bigint DEFAULT 1,
    OUT allowed boolean, OUT quota bigint, OUT remaining bigint,
    OUT retry_after interval, OUT reset_after interval, OUT reason text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_throttle';
COMMENT ON FUNCTION rl_throttle IS 'a token bucket given in the call';

CREATE FUNCTION rl_http_headers(limiter text, key text)
    RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_http_headers';
COMMENT ON FUNCTION rl_http_headers IS 'RateLimit-Policy, RateLimit, X-RateLimit-* and, when denied, Retry-After; takes nothing';

CREATE FUNCTION rl_reset(limiter text, key text)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_reset';
COMMENT ON FUNCTION rl_reset IS 'forgets what a key has used; says whether it had used anything';

CREATE FUNCTION _rl_reset_all(limiter text)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', '_rl_reset_all';
COMMENT ON FUNCTION _rl_reset_all IS 'internal: rl_reset_all in shared memory';

-- A durable limiter gets another id: what the tables have under the old one belongs to nobody any more, and is purged.
CREATE FUNCTION rl_reset_all(limiter text)
    RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    forgotten bigint := @extschema@._rl_reset_all(limiter);
    old uuid;
BEGIN
    SELECT l.id INTO old FROM @extschema@.rl_limiters AS l
     WHERE l.name = limiter AND l.storage::text = 'durable' FOR UPDATE;
    IF FOUND THEN
        UPDATE @extschema@.rl_limiters AS l SET id = pg_catalog.gen_random_uuid() WHERE l.name = limiter;
        SELECT count(DISTINCT used.key) INTO forgotten FROM (
            SELECT c.key, c.rule FROM @extschema@.rl_counts AS c WHERE c.limiter = old AND c.fresh_from > clock_timestamp()
            UNION ALL SELECT l.key, l.rule FROM @extschema@.rl_ledger_0 AS l WHERE l.limiter = old
            UNION ALL SELECT l.key, l.rule FROM @extschema@.rl_ledger_1 AS l WHERE l.limiter = old) AS used
         WHERE used.rule = (SELECT min(r.position) FROM @extschema@.rl_rules AS r WHERE r.limiter = limiter);
    END IF;
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION rl_reset_all IS 'forgets what all keys of a limiter have used; says how many there were';

CREATE FUNCTION rl_purge()
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 10000 AS 'MODULE_PATHNAME', 'rl_purge';
COMMENT ON FUNCTION rl_purge IS 'sums up what durable limiters wrote down, and removes what has expired, as the worker does each ratelimit.purge_interval; in a transaction block, which would keep tables locked, it sums up nothing; returns how many rows of this database it removed';

CREATE FUNCTION rl_simulate(rates text, times timestamptz[], costs bigint[] DEFAULT NULL,
    algorithm rl_algorithm DEFAULT 'token_bucket', time_zone text DEFAULT 'UTC')
    RETURNS TABLE (n integer, at timestamptz, cost bigint, allowed boolean, quota bigint, remaining bigint,
        retry_after interval, reset_after interval, reason text)
    LANGUAGE c STABLE PARALLEL SAFE COST 1000 AS 'MODULE_PATHNAME', 'rl_simulate';
COMMENT ON FUNCTION rl_simulate IS 'what a limit would have answered to past calls of one key; touches no state';

CREATE FUNCTION rl_limit_row()
    RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'rl_limit_row';
COMMENT ON FUNCTION rl_limit_row IS 'BEFORE row trigger (limiter, key template [, ''raise'' or ''skip'' [, cost column]]): takes from the limiter for each row';

CREATE FUNCTION rl_limit_statement()
    RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'rl_limit_statement';
COMMENT ON FUNCTION rl_limit_statement IS 'AFTER statement trigger (limiter, key template) with a transition table: takes for each key as much as there are rows';

CREATE FUNCTION _rl_info(OUT preloaded boolean, OUT keys bigint, OUT max_keys bigint, OUT evictions bigint,
    OUT slots bigint, OUT max_slots bigint, OUT last_purge timestamptz, OUT last_purge_rows bigint, OUT last_error text,
    OUT library_version text)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', '_rl_info';
COMMENT ON FUNCTION _rl_info IS 'internal: what the library knows for rl_info';

-- What is in shared memory is null where there is none. last_purge is of the last round of workers, or call of rl_purge;
-- last_error stands until house-keeping succeeds in the same database.
CREATE FUNCTION rl_info(OUT preloaded boolean, OUT keys bigint, OUT max_keys bigint, OUT evictions bigint,
    OUT slots bigint, OUT max_slots bigint, OUT last_purge timestamptz, OUT last_purge_rows bigint,
    OUT last_error text, OUT library_version text, OUT extension_version text)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT known.preloaded, known.keys, known.max_keys, known.evictions, known.slots, known.max_slots,
               known.last_purge, known.last_purge_rows, known.last_error, known.library_version, e.extversion
          FROM @extschema@._rl_info() AS known, pg_extension AS e
         WHERE e.extname = 'ratelimit'
    $$;
COMMENT ON FUNCTION rl_info IS 'the state of the extension on this server, one row';
GRANT EXECUTE ON FUNCTION rl_info() TO pg_read_all_stats;
