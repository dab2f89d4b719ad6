CREATE FUNCTION _rl_stat_limiter(id uuid, OUT allowed bigint, OUT denied bigint, OUT refunded bigint,
    OUT waits bigint, OUT wait_time interval, OUT timeouts bigint, OUT bans bigint, OUT shadow_denied bigint,
    OUT stats_reset timestamptz, OUT near_limit bigint)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', '_rl_stat_limiter';
COMMENT ON FUNCTION _rl_stat_limiter IS 'internal: what was counted of a limiter';
GRANT EXECUTE ON FUNCTION _rl_stat_limiter(uuid) TO pg_read_all_stats;

CREATE VIEW @extschema@.rl_stat_limiters AS
    SELECT l.name AS limiter, s.allowed, s.denied, s.refunded, s.waits, s.wait_time, s.timeouts, s.bans, s.shadow_denied,
           s.stats_reset, s.near_limit
      FROM @extschema@.rl_limiters AS l, LATERAL @extschema@._rl_stat_limiter(l.id) AS s;
COMMENT ON VIEW rl_stat_limiters IS 'what limiters decided on this server since stats_reset; null where nothing is counted: without shared memory, and beyond 1024 limiters';
COMMENT ON COLUMN rl_stat_limiters.limiter IS 'the limiter';
COMMENT ON COLUMN rl_stat_limiters.allowed IS 'decisions that let a call pass';
COMMENT ON COLUMN rl_stat_limiters.denied IS 'decisions that refused one';
COMMENT ON COLUMN rl_stat_limiters.refunded IS 'cost that was given back by rl_refund';
COMMENT ON COLUMN rl_stat_limiters.waits IS 'calls that had to wait, for a turn or for a slot';
COMMENT ON COLUMN rl_stat_limiters.wait_time IS 'how long they waited, all together';
COMMENT ON COLUMN rl_stat_limiters.timeouts IS 'calls that were refused as their turn would have come too late';
COMMENT ON COLUMN rl_stat_limiters.bans IS 'keys that were banned';
COMMENT ON COLUMN rl_stat_limiters.shadow_denied IS 'calls that passed in shadow mode, and would have been refused';
COMMENT ON COLUMN rl_stat_limiters.stats_reset IS 'since when it is counted; null if it was not asked yet';
COMMENT ON COLUMN rl_stat_limiters.near_limit IS 'of those that were allowed, the decisions that left less than a fifth of the quota';

CREATE FUNCTION rl_stat_keys(limiter text, n integer DEFAULT 10)
    RETURNS TABLE (key text, allowed bigint, denied bigint, last_denied timestamptz)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 ROWS 10 AS 'MODULE_PATHNAME', 'rl_stat_keys';
COMMENT ON FUNCTION rl_stat_keys IS 'the n keys of a limiter that were denied most, of those that are tracked; a long key is cut';
GRANT EXECUTE ON FUNCTION rl_stat_keys(text, integer) TO pg_read_all_stats;

CREATE FUNCTION rl_stat_reset()
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 100 AS 'MODULE_PATHNAME', 'rl_stat_reset';
COMMENT ON FUNCTION rl_stat_reset IS 'counts all limiters of this database from 0 again, and forgets which keys were denied';
GRANT SELECT ON @extschema@.rl_stat_limiters TO pg_read_all_stats;
