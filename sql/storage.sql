CREATE FUNCTION _rl_default_storage(limiter text) RETURNS rl_storage
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF @extschema@._rl_has_memory(false) THEN
        RETURN 'memory';
    END IF;
    RAISE NOTICE USING
        MESSAGE = format('limiter "%s" is durable', limiter),
        DETAIL = 'ratelimit has no shared memory to count in: before PostgreSQL 17, a library gets it only when the server starts.',
        HINT = 'For limiters with storage "memory", add ratelimit to shared_preload_libraries and restart the server.';
    RETURN 'durable';
END
$$;
COMMENT ON FUNCTION _rl_default_storage IS 'internal: memory where it works, else durable, and says why';
