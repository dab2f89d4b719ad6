CREATE FUNCTION _rl_parse_rates(rates text, algorithm rl_algorithm)
    RETURNS TABLE (n integer, quota bigint, period interval, burst bigint, anchor text)
    LANGUAGE c STABLE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_parse_rates IS 'internal: the rules that a rate string stands for';
CREATE FUNCTION _rl_check_name(name text) RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_check_name IS 'internal: refuses a name that a limiter must not have';
CREATE FUNCTION _rl_has_memory(required boolean) RETURNS boolean
    LANGUAGE c STABLE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION _rl_has_memory IS 'internal: whether limits can be counted in shared memory; an error if they cannot and it is required';

-- SECURITY DEFINER: the tables are granted to nobody, these functions are.
CREATE FUNCTION rl_create_limiter(
    name text, rates text DEFAULT NULL, algorithm rl_algorithm DEFAULT 'token_bucket',
    storage rl_storage DEFAULT NULL, on_rollback rl_on_rollback DEFAULT NULL,
    max_concurrent integer DEFAULT NULL, time_zone text DEFAULT 'UTC', mode rl_mode DEFAULT 'enforce',
    wait_timeout interval DEFAULT NULL, refill text DEFAULT 'continuous', anchor text DEFAULT 'clock',
    ban_after integer DEFAULT NULL, ban_within interval DEFAULT NULL, ban_for interval DEFAULT NULL,
    description text DEFAULT NULL)
    RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    wrong record;
BEGIN
    PERFORM @extschema@._rl_check_name(name);
    IF algorithm IS NULL OR time_zone IS NULL OR mode IS NULL OR refill IS NULL OR anchor IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'algorithm, time_zone, mode, refill and anchor must not be null',
            HINT = 'Leave them out to get their defaults.';
    END IF;
    IF refill NOT IN ('continuous', 'interval') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = pg_catalog.format('invalid refill "%s"', refill), HINT = 'It is continuous or interval.';
    END IF;
    IF anchor NOT IN ('clock', 'epoch', 'first_hit') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = pg_catalog.format('invalid anchor "%s"', anchor), HINT = 'It is clock, epoch or first_hit.';
    END IF;
    IF rates IS NULL AND max_concurrent IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = pg_catalog.format('limiter "%s" would limit nothing', name),
            HINT = 'Give rates, as ''100 per minute'', or max_concurrent.';
    END IF;
    -- What the constraints of the table say, in the words of a call.
    SELECT v.* INTO wrong FROM (VALUES
        ('max_concurrent', max_concurrent::text, max_concurrent < 0, 'not be negative'),
        ('wait_timeout', wait_timeout::text, wait_timeout < '0', 'not be negative'),
        ('ban_after', ban_after::text, ban_after <= 0, 'be positive'),
        ('ban_within', ban_within::text, ban_within <= '0', 'be positive'),
        ('ban_for', ban_for::text, ban_for <= '0', 'be positive')) AS v (parameter, given, is_wrong, must)
     WHERE v.is_wrong
     LIMIT 1;
    IF FOUND THEN
        RAISE invalid_parameter_value USING
            MESSAGE = pg_catalog.format('%s must %s', wrong.parameter, wrong.must),
            DETAIL = pg_catalog.format('It is %s.', wrong.given),
            HINT = 'Leave it out to set none.';
    END IF;
    IF pg_catalog.num_nulls(ban_after, ban_within) = 1 OR ban_for IS NOT NULL AND ban_after IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'ban_after and ban_within must be given together, and with ban_for',
            HINT = 'Write as ban_after => 20, ban_within => ''1 minute'', ban_for => ''10 minutes''.';
    END IF;
    IF storage IS NULL THEN
        storage := @extschema@._rl_default_storage(name);
    ELSIF storage OPERATOR(pg_catalog.=) 'memory'::@extschema@.rl_storage THEN
        PERFORM @extschema@._rl_has_memory(true);
    END IF;
    INSERT INTO @extschema@.rl_limiters AS l
           (name, description, storage, on_rollback, mode, max_concurrent, wait_timeout, ban_after, ban_within, ban_for)
    VALUES (name, description, storage, on_rollback, mode, max_concurrent,
            wait_timeout, ban_after, ban_within, ban_for)
        ON CONFLICT ON CONSTRAINT rl_limiters_pkey DO NOTHING;
    IF NOT FOUND THEN
        RAISE duplicate_object USING
            MESSAGE = pg_catalog.format('limiter "%s" already exists', name),
            HINT = 'Change it by UPDATE on rl_limiters and rl_rules, or drop it with rl_drop_limiter.';
    END IF;
    INSERT INTO @extschema@.rl_rules (limiter, position, algorithm, quota, period, burst, refill, anchor, time_zone)
    SELECT name, r.n, algorithm, r.quota, r.period, r.burst, refill,
           CASE WHEN anchor OPERATOR(pg_catalog.=) 'clock' THEN coalesce(r.anchor, anchor) ELSE anchor END, time_zone
      FROM @extschema@._rl_parse_rates(rates, algorithm) AS r
     WHERE rates IS NOT NULL;
    RETURN name;
END
$$;
COMMENT ON FUNCTION rl_create_limiter IS 'creates a limiter, as rl_create_limiter(''api'', ''100 per minute''); returns its name';

CREATE FUNCTION rl_drop_limiter(name text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
BEGIN
    IF name IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'name must not be null';
    END IF;
    DELETE FROM @extschema@.rl_limiters AS l WHERE l.name OPERATOR(pg_catalog.=) name;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION rl_drop_limiter IS 'drops a limiter and all that its keys have used; says whether there was one';

CREATE FUNCTION rl_clone_limiter(source text, name text, rates text DEFAULT NULL,
    algorithm rl_algorithm DEFAULT NULL, description text DEFAULT NULL)
    RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_variable
DECLARE
    model @extschema@.rl_rules;
BEGIN
    IF source IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'source must not be null';
    END IF;
    PERFORM @extschema@._rl_check_name(name);
    IF rates IS NULL AND algorithm IS NOT NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'algorithm is given without rates',
            HINT = 'Give both, or change rl_rules after cloning.';
    END IF;
    INSERT INTO @extschema@.rl_limiters
           (name, description, storage, on_rollback, mode, max_concurrent, wait_timeout, ban_after, ban_within, ban_for)
    SELECT name, coalesce(description, l.description), l.storage, l.on_rollback, l.mode, l.max_concurrent,
           l.wait_timeout, l.ban_after, l.ban_within, l.ban_for
      FROM @extschema@.rl_limiters AS l
     WHERE l.name OPERATOR(pg_catalog.=) source
        ON CONFLICT ON CONSTRAINT rl_limiters_pkey DO NOTHING;
    IF NOT FOUND THEN
        PERFORM FROM @extschema@.rl_limiters AS l WHERE l.name OPERATOR(pg_catalog.=) source;
        IF FOUND THEN
            RAISE duplicate_object USING MESSAGE = pg_catalog.format('limiter "%s" already exists', name);
        END IF;
        RAISE undefined_object USING
            MESSAGE = pg_catalog.format('limiter "%s" does not exist', source),
            HINT = 'Create it with rl_create_limiter.';
    END IF;
    SELECT r.* INTO model FROM @extschema@.rl_rules AS r
     WHERE r.limiter OPERATOR(pg_catalog.=) source
     ORDER BY r.position LIMIT 1;
    IF rates IS NULL THEN
        INSERT INTO @extschema@.rl_rules (limiter, position, algorithm, quota, period, burst, refill, anchor, time_zone)
        SELECT name, r.position, r.algorithm, r.quota, r.period, r.burst, r.refill, r.anchor, r.time_zone
          FROM @extschema@.rl_rules AS r
         WHERE r.limiter OPERATOR(pg_catalog.=) source;
    ELSE
        algorithm := coalesce(algorithm, model.algorithm, 'token_bucket');
        INSERT INTO @extschema@.rl_rules (limiter, position, algorithm, quota, period, burst, anchor, time_zone)
        SELECT name, r.n, algorithm, r.quota, r.period, r.burst, coalesce(r.anchor, 'clock'),
               CASE WHEN algorithm = 'fixed_window'::@extschema@.rl_algorithm THEN coalesce(model.time_zone, 'UTC') ELSE 'UTC' END
          FROM @extschema@._rl_parse_rates(rates, algorithm) AS r;
    END IF;
    INSERT INTO @extschema@.rl_overrides (limiter, key, action, quota, burst, expires_at, reason)
    SELECT name, o.key, o.action, o.quota, o.burst, o.expires_at, o.reason
      FROM @extschema@.rl_overrides AS o
     WHERE o.limiter OPERATOR(pg_catalog.=) source;
    RETURN name;
END
$$;
COMMENT ON FUNCTION rl_clone_limiter IS 'creates a limiter like another and with its overrides, with other rates if they are given; returns its name';
