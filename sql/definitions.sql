-- Names compare byte by byte: the library looks them up by index.
CREATE TABLE @extschema@.rl_limiters (
    name           text COLLATE "C" PRIMARY KEY
                   CHECK (pg_catalog.octet_length(name) OPERATOR(pg_catalog.>=) 1 AND pg_catalog.octet_length(name) OPERATOR(pg_catalog.<=) 63
                          AND name OPERATOR(pg_catalog.!~) '[[:cntrl:]]'),
    description    text,
    storage        rl_storage NOT NULL DEFAULT 'memory',
    -- Has its default from a trigger: keep for memory, refund for durable.
    on_rollback    rl_on_rollback NOT NULL,
    mode           rl_mode NOT NULL DEFAULT 'enforce',
    max_concurrent integer CHECK (max_concurrent OPERATOR(pg_catalog.>=) 0),
    wait_timeout   interval CHECK (wait_timeout OPERATOR(pg_catalog.>=) '0'),
    ban_after      integer CHECK (ban_after OPERATOR(pg_catalog.>) 0),
    ban_within     interval CHECK (ban_within OPERATOR(pg_catalog.>) '0'),
    ban_for        interval CHECK (ban_for OPERATOR(pg_catalog.>) '0'),
    created_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    -- Tells a limiter from any other that was ever created; what keys have used is known by it, whatever the name.
    id             uuid NOT NULL UNIQUE DEFAULT pg_catalog.gen_random_uuid(),
    CHECK (pg_catalog.num_nulls(ban_after, ban_within) OPERATOR(pg_catalog.=) ANY (ARRAY[0, 2])),
    CHECK (ban_for IS NULL OR ban_after IS NOT NULL)
);
COMMENT ON TABLE rl_limiters IS 'limiters; changes apply from the commit on, in every session';
COMMENT ON COLUMN rl_limiters.name IS 'what calls name it by';
COMMENT ON COLUMN rl_limiters.description IS 'for people';
COMMENT ON COLUMN rl_limiters.storage IS 'memory or durable';
COMMENT ON COLUMN rl_limiters.on_rollback IS 'keep or refund';
COMMENT ON COLUMN rl_limiters.mode IS 'enforce, shadow or off';
COMMENT ON COLUMN rl_limiters.max_concurrent IS 'how many may hold a slot of a key at once; null: no slots';
COMMENT ON COLUMN rl_limiters.wait_timeout IS 'how long a waiting call waits; null: for ever';
COMMENT ON COLUMN rl_limiters.ban_after IS 'ban a key after so many denials ...';
COMMENT ON COLUMN rl_limiters.ban_within IS '... within this time ...';
COMMENT ON COLUMN rl_limiters.ban_for IS '... for this long';
COMMENT ON COLUMN rl_limiters.created_at IS 'when it was created';
COMMENT ON COLUMN rl_limiters.id IS 'what is known of keys belongs to this id: another one forgets it';

CREATE TABLE @extschema@.rl_rules (
    limiter   text COLLATE "C" NOT NULL REFERENCES @extschema@.rl_limiters ON UPDATE CASCADE ON DELETE CASCADE,
    position  integer NOT NULL DEFAULT 1 CHECK (position OPERATOR(pg_catalog.>=) 1 AND position OPERATOR(pg_catalog.<=) 100),
    algorithm rl_algorithm NOT NULL DEFAULT 'token_bucket',
    quota     bigint NOT NULL CHECK (quota OPERATOR(pg_catalog.>=) 0 AND quota OPERATOR(pg_catalog.<=) 1000000000000),
    period    interval NOT NULL CHECK (period OPERATOR(pg_catalog.>=) '1 millisecond'),
    burst     bigint CHECK (burst OPERATOR(pg_catalog.>=) 1 AND burst OPERATOR(pg_catalog.<=) 1000000000000),
    refill    text NOT NULL DEFAULT 'continuous' CHECK (refill OPERATOR(pg_catalog.=) ANY (ARRAY['continuous', 'interval'])),
    anchor    text NOT NULL DEFAULT 'clock' CHECK (anchor OPERATOR(pg_catalog.=) ANY (ARRAY['clock', 'epoch', 'first_hit'])),
    time_zone text NOT NULL DEFAULT 'UTC',
    PRIMARY KEY (limiter, position)
);
COMMENT ON TABLE rl_rules IS 'the rules of a limiter: a call must pass all of them, or takes nothing';
COMMENT ON COLUMN rl_rules.limiter IS 'the limiter';
COMMENT ON COLUMN rl_rules.position IS 'the order; of equals, the first rule is reported';
COMMENT ON COLUMN rl_rules.algorithm IS 'how it counts';
COMMENT ON COLUMN rl_rules.quota IS 'how much passes in a period; 0 denies all';
COMMENT ON COLUMN rl_rules.period IS 'a time, days, whole weeks from Monday, or months; months only with fixed_window';
COMMENT ON COLUMN rl_rules.burst IS 'how much a token bucket holds; null: the quota';
COMMENT ON COLUMN rl_rules.refill IS 'token_bucket: continuous, or a whole quota at each interval''s end';
COMMENT ON COLUMN rl_rules.anchor IS
    'fixed_window: windows begin by the clock, with a key''s first_hit, or (epoch) whole weeks as days since 1970-01-01';
COMMENT ON COLUMN rl_rules.time_zone IS 'fixed_window: whose days, weeks, months and years';

SELECT pg_catalog.pg_extension_config_dump('rl_limiters', '');
SELECT pg_catalog.pg_extension_config_dump('rl_rules', '');

CREATE FUNCTION _rl_definitions_changed() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_definitions_changed() IS 'internal: tells all sessions, at commit, to read definitions again';
CREATE FUNCTION _rl_check_definition() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_check_definition() IS 'internal: refuses definitions that make no sense';

-- ALWAYS: also for rows that come by replication or are loaded with triggers off.
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.rl_limiters
    FOR EACH STATEMENT EXECUTE FUNCTION _rl_definitions_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.rl_rules
    FOR EACH STATEMENT EXECUTE FUNCTION _rl_definitions_changed();
ALTER TABLE @extschema@.rl_limiters ENABLE ALWAYS TRIGGER changed;
ALTER TABLE @extschema@.rl_rules ENABLE ALWAYS TRIGGER changed;

CREATE FUNCTION _rl_complete_limiter() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NEW.on_rollback IS NULL THEN
        NEW.on_rollback := CASE WHEN NEW.storage::text = 'durable' THEN 'refund' ELSE 'keep' END;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION _rl_complete_limiter() IS 'internal: fills in on_rollback, whose default depends on the storage';
CREATE TRIGGER complete BEFORE INSERT OR UPDATE ON @extschema@.rl_limiters
    FOR EACH ROW EXECUTE FUNCTION _rl_complete_limiter();
CREATE TRIGGER valid AFTER INSERT OR UPDATE ON @extschema@.rl_limiters
    FOR EACH ROW EXECUTE FUNCTION _rl_check_definition();
-- Another rule may become the first, whose quota and burst overrides replace.
CREATE TRIGGER valid AFTER INSERT OR UPDATE OR DELETE ON @extschema@.rl_rules
    FOR EACH ROW EXECUTE FUNCTION _rl_check_definition();
