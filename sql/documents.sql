-- Settings that change how values are written as text are set: a document means the same in every session.
CREATE FUNCTION _rl_definitions() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET intervalstyle = 'postgres' SET timezone = 'UTC'
    AS $$
        SELECT coalesce(json_agg(d ORDER BY d.name), '[]')
          FROM (SELECT l.*, coalesce(r.rules, '[]') AS rules, coalesce(o.overrides, '{}') AS overrides
                  FROM @extschema@.rl_limiters AS l
                  LEFT JOIN (SELECT r.limiter AS name, json_agg(r ORDER BY r.position) AS rules
                               FROM @extschema@.rl_rules AS r GROUP BY r.limiter) AS r USING (name)
                  LEFT JOIN (SELECT o.limiter AS name, json_object_agg(o.key, o) AS overrides
                               FROM @extschema@.rl_overrides AS o
                              WHERE o.expires_at IS NULL OR o.expires_at > now()
                              GROUP BY o.limiter) AS o USING (name)) AS d
    $$;
COMMENT ON FUNCTION _rl_definitions IS 'internal: all that the tables define, for _rl_plan_config and _rl_write_config';
CREATE FUNCTION _rl_plan_config(config text, definitions text, prune boolean) RETURNS text
    LANGUAGE c STABLE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_plan_config IS 'internal: what is to be done to make definitions equal to a document';
CREATE FUNCTION _rl_write_config(definitions text) RETURNS text
    LANGUAGE c STABLE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_write_config IS 'internal: definitions as a document';

CREATE FUNCTION rl_export_config() RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT @extschema@._rl_write_config(@extschema@._rl_definitions())::jsonb $$;
COMMENT ON FUNCTION rl_export_config IS 'all definitions as a document for rl_apply_config, without what it would mean anyway';

-- Rows are written in place: what keys have used is known by a limiter's id and a rule's position. Nothing is written where nothing
-- is to be done, because a statement without rows would make all sessions read definitions again, too.
CREATE FUNCTION rl_apply_config(config jsonb, prune boolean DEFAULT false, dry_run boolean DEFAULT false)
    RETURNS TABLE (action text, limiter text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET intervalstyle = 'postgres'
    AS $$
#variable_conflict use_column
DECLARE
    plan jsonb;
    created text;
BEGIN
    IF config IS NULL OR prune IS NULL OR dry_run IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'config, prune and dry_run must not be null';
    END IF;
    IF NOT dry_run THEN
        -- Nobody else changes a definition between our look at it and our change. The order is that in which others write.
        LOCK TABLE @extschema@.rl_limiters, @extschema@.rl_rules, @extschema@.rl_overrides IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    plan := @extschema@._rl_plan_config(config::text, @extschema@._rl_definitions(), prune)::jsonb;
    IF NOT dry_run AND plan <> '[]' THEN
        IF plan @? '$[*].definition ? (@.storage == "memory")' THEN
            PERFORM @extschema@._rl_has_memory(true);
        END IF;
        FOR created IN
            SELECT s.limiter FROM jsonb_to_recordset(plan) AS s (action text, limiter text, definition jsonb)
             WHERE s.definition IS NOT NULL AND config #>> ARRAY['limiters', s.limiter, 'storage'] IS NULL
        LOOP
            PERFORM @extschema@._rl_default_storage(created);
        END LOOP;
        PERFORM @extschema@._rl_carry_out(plan);
    END IF;
    RETURN QUERY SELECT s.action, s.limiter FROM jsonb_to_recordset(plan) AS s (action text, limiter text);
END
$$;
COMMENT ON FUNCTION rl_apply_config IS 'makes the definitions equal to a document; with prune drops limiters that are not in it; returns what was created, changed and dropped, or with dry_run would be';

-- Rows that go do so before others come, and overrides before rules: each statement leaves what can be together.
CREATE FUNCTION _rl_carry_out(plan jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    DELETE FROM @extschema@.rl_limiters AS l
     USING jsonb_to_recordset(plan) AS s (action text, limiter text)
     WHERE s.action = 'dropped' AND l.name = s.limiter;
    WITH wanted AS MATERIALIZED (
        SELECT s.limiter, w.key, n.action, n.quota, n.burst, n.expires_at, n.reason
          FROM jsonb_to_recordset(plan) AS s (limiter text, definition jsonb),
               jsonb_each(s.definition -> 'overrides') AS w,
               jsonb_populate_record(NULL::@extschema@.rl_overrides, w.value) AS n)
    DELETE FROM @extschema@.rl_overrides AS o
     USING jsonb_to_recordset(plan) AS s (limiter text)
     WHERE o.limiter = s.limiter
       AND NOT EXISTS (SELECT FROM wanted AS w
                        WHERE w.limiter = o.limiter AND w.key = o.key
                          AND (w.action, w.quota, w.burst, w.expires_at, w.reason)
                              IS NOT DISTINCT FROM (o.action, o.quota, o.burst, o.expires_at, o.reason));
    INSERT INTO @extschema@.rl_limiters AS l
           (name, description, storage, on_rollback, mode, max_concurrent, wait_timeout, ban_after, ban_within, ban_for)
    SELECT n.name, n.description, n.storage, n.on_rollback, n.mode, n.max_concurrent, n.wait_timeout, n.ban_after, n.ban_within,
           n.ban_for
      FROM jsonb_to_recordset(plan) AS s (definition jsonb),
           jsonb_populate_record(NULL::@extschema@.rl_limiters, s.definition) AS n
     WHERE n.name IS NOT NULL
        ON CONFLICT ON CONSTRAINT rl_limiters_pkey DO UPDATE
       SET (description, storage, on_rollback, mode, max_concurrent, wait_timeout, ban_after, ban_within, ban_for) =
           (excluded.description, excluded.storage, excluded.on_rollback, excluded.mode, excluded.max_concurrent,
            excluded.wait_timeout, excluded.ban_after, excluded.ban_within, excluded.ban_for);
    DELETE FROM @extschema@.rl_rules AS r
     USING jsonb_to_recordset(plan) AS s (limiter text, definition jsonb)
     WHERE r.limiter = s.limiter
       AND NOT s.definition -> 'rules' @> jsonb_build_array(jsonb_build_object('position', r.position));
    INSERT INTO @extschema@.rl_rules AS r (limiter, position, algorithm, quota, period, burst, refill, anchor, time_zone)
    SELECT s.limiter, n.position, n.algorithm, n.quota, n.period, n.burst, n.refill, n.anchor, n.time_zone
      FROM jsonb_to_recordset(plan) AS s (limiter text, definition jsonb),
           jsonb_populate_recordset(NULL::@extschema@.rl_rules, s.definition -> 'rules') AS n
        ON CONFLICT ON CONSTRAINT rl_rules_pkey DO UPDATE
       SET (algorithm, quota, period, burst, refill, anchor, time_zone) =
           (excluded.algorithm, excluded.quota, excluded.period, excluded.burst, excluded.refill, excluded.anchor,
            excluded.time_zone);
    INSERT INTO @extschema@.rl_overrides (limiter, key, action, quota, burst, expires_at, reason)
    SELECT s.limiter, w.key, n.action, n.quota, n.burst, n.expires_at, n.reason
      FROM jsonb_to_recordset(plan) AS s (limiter text, definition jsonb),
           jsonb_each(s.definition -> 'overrides') AS w,
           jsonb_populate_record(NULL::@extschema@.rl_overrides, w.value) AS n
        ON CONFLICT ON CONSTRAINT rl_overrides_pkey DO NOTHING;
END
$$;
COMMENT ON FUNCTION _rl_carry_out IS 'internal: writes what _rl_plan_config planned';
