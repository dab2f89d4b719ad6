CREATE TABLE @extschema@.rl_overrides (
    limiter    text COLLATE "C" NOT NULL REFERENCES @extschema@.rl_limiters ON UPDATE CASCADE ON DELETE CASCADE,
    key        text COLLATE "C" NOT NULL,
    action     text NOT NULL CHECK (action OPERATOR(pg_catalog.=) ANY (ARRAY['allow', 'deny', 'limit'])),
    quota      bigint CHECK (quota OPERATOR(pg_catalog.>=) 0 AND quota OPERATOR(pg_catalog.<=) 1000000000000),
    burst      bigint CHECK (burst OPERATOR(pg_catalog.>=) 1 AND burst OPERATOR(pg_catalog.<=) 1000000000000),
    expires_at timestamptz,
    reason     text,
    PRIMARY KEY (limiter, key),
    CHECK ((action OPERATOR(pg_catalog.=) 'limit') OPERATOR(pg_catalog.=) (quota IS NOT NULL)),
    CHECK (burst IS NULL OR quota OPERATOR(pg_catalog.>) 0)
);
COMMENT ON TABLE rl_overrides IS 'keys that are always allowed, always denied, or have a limit of their own';
COMMENT ON COLUMN rl_overrides.limiter IS 'the limiter';
COMMENT ON COLUMN rl_overrides.key IS 'the key';
COMMENT ON COLUMN rl_overrides.action IS 'allow, deny or limit';
COMMENT ON COLUMN rl_overrides.quota IS 'limit: what the key has in place of the quota of the first rule';
COMMENT ON COLUMN rl_overrides.burst IS 'limit: what the key has in place of the burst of the first rule; null: as the rule has it';
COMMENT ON COLUMN rl_overrides.expires_at IS 'until when it holds; null: for ever';
COMMENT ON COLUMN rl_overrides.reason IS 'for people';

SELECT pg_catalog.pg_extension_config_dump('rl_overrides', '');

CREATE FUNCTION _rl_list_changed() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_list_changed() IS 'internal: tells all sessions, at commit, which keys to look up again';
CREATE FUNCTION _rl_check_override() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_check_override() IS 'internal: refuses overrides that make no sense';
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON @extschema@.rl_overrides
    FOR EACH ROW EXECUTE FUNCTION _rl_list_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON @extschema@.rl_overrides
    FOR EACH STATEMENT EXECUTE FUNCTION _rl_list_changed();
ALTER TABLE @extschema@.rl_overrides ENABLE ALWAYS TRIGGER noted;
ALTER TABLE @extschema@.rl_overrides ENABLE ALWAYS TRIGGER changed;
CREATE TRIGGER valid AFTER INSERT OR UPDATE ON @extschema@.rl_overrides
    FOR EACH ROW WHEN (NEW.quota IS NOT NULL) EXECUTE FUNCTION _rl_check_override();
