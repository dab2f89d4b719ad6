-- Bans of memory limiters are in shared memory.
CREATE TABLE @extschema@.rl_durable_bans (
    limiter    text COLLATE "C" NOT NULL REFERENCES @extschema@.rl_limiters ON UPDATE CASCADE ON DELETE CASCADE,
    key        text COLLATE "C" NOT NULL,
    reason     text,
    automatic  boolean NOT NULL,
    since      timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (limiter, key)
);
COMMENT ON TABLE rl_durable_bans IS 'internal: keys of durable limiters that are banned';
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON @extschema@.rl_durable_bans
    FOR EACH ROW EXECUTE FUNCTION _rl_list_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.rl_durable_bans
    FOR EACH STATEMENT EXECUTE FUNCTION _rl_list_changed();
ALTER TABLE @extschema@.rl_durable_bans ENABLE ALWAYS TRIGGER noted;
ALTER TABLE @extschema@.rl_durable_bans ENABLE ALWAYS TRIGGER changed;

CREATE FUNCTION rl_ban(limiter text, key text, duration interval, reason text DEFAULT NULL)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'rl_ban';
COMMENT ON FUNCTION rl_ban IS 'refuses all calls for a key for so long, null for ever, in place of an earlier ban of it';

-- For a key that was refused too often. A refusal does not fail, nor wait for more than a moment: where others are at the row or at the limiter's, or the
-- transaction's snapshot is of before what they did, the next refusal tries again.
CREATE FUNCTION _rl_ban_denied(limiter text, key text, since timestamptz, expires_at timestamptz)
    RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms'
    AS $$
#variable_conflict use_variable
BEGIN
    INSERT INTO @extschema@.rl_durable_bans AS b (limiter, key, automatic, since, expires_at)
    VALUES (limiter, key, true, since, expires_at)
        ON CONFLICT ON CONSTRAINT rl_durable_bans_pkey DO UPDATE
       SET reason = NULL, automatic = true, since = excluded.since, expires_at = excluded.expires_at
     WHERE b.expires_at <= since;
    RETURN FOUND;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected OR serialization_failure OR foreign_key_violation THEN
        RETURN false;
END
$$;
COMMENT ON FUNCTION _rl_ban_denied IS 'internal: bans a key unless it is banned or somebody is in the way; says whether it did';

CREATE FUNCTION rl_unban(limiter text, key text)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE COST 100 AS 'MODULE_PATHNAME', 'rl_unban';
COMMENT ON FUNCTION rl_unban IS 'ends the ban of a key; says whether there was one';

CREATE FUNCTION _rl_bans(OUT limiter uuid, OUT key text, OUT reason text, OUT automatic boolean,
    OUT since timestamptz, OUT expires_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED COST 1000 AS 'MODULE_PATHNAME', '_rl_bans';
COMMENT ON FUNCTION _rl_bans IS 'internal: the bans that shared memory holds for this database';
GRANT EXECUTE ON FUNCTION _rl_bans() TO pg_read_all_stats;

CREATE VIEW @extschema@.rl_bans AS
    SELECT l.name AS limiter, b.key, b.reason, b.automatic, b.since, b.expires_at
      FROM @extschema@._rl_bans() AS b
      JOIN @extschema@.rl_limiters AS l ON l.id OPERATOR(pg_catalog.=) b.limiter AND l.storage::pg_catalog.text OPERATOR(pg_catalog.=) 'memory'
    UNION ALL
    SELECT b.limiter, b.key, b.reason, b.automatic, b.since, b.expires_at
      FROM @extschema@.rl_durable_bans AS b
      JOIN @extschema@.rl_limiters AS l ON l.name OPERATOR(pg_catalog.=) b.limiter AND l.storage::pg_catalog.text OPERATOR(pg_catalog.=) 'durable'
     WHERE b.expires_at IS NULL OR b.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp();
COMMENT ON VIEW rl_bans IS 'the keys that are banned now; a long key and a long reason of a memory limiter are cut';
COMMENT ON COLUMN rl_bans.limiter IS 'the limiter';
COMMENT ON COLUMN rl_bans.key IS 'the key';
COMMENT ON COLUMN rl_bans.reason IS 'what rl_ban was told';
COMMENT ON COLUMN rl_bans.automatic IS 'whether the limiter banned it by itself, for ban_after denials';
COMMENT ON COLUMN rl_bans.since IS 'when it was banned';
COMMENT ON COLUMN rl_bans.expires_at IS 'when the ban ends; null: never';
GRANT SELECT ON @extschema@.rl_bans TO pg_read_all_stats;
