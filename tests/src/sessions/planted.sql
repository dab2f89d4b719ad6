-- Fills the schema "planted" with an object of every name that PostgreSQL or the extension has, with the same arguments. To use one is an error.

CREATE SCHEMA planted;
GRANT USAGE ON SCHEMA planted TO PUBLIC;

-- The C function of the type "trigger" refuses whatever it is given.
CREATE FUNCTION planted.trap() RETURNS boolean LANGUAGE internal AS 'trigger_in';

DO $do$
DECLARE
    command text;
    left_out int := 0;
BEGIN
    FOR command IN
        SELECT format('CREATE FUNCTION planted.%I(%s) RETURNS %s LANGUAGE internal AS ''trigger_in''',
                      proname, pg_get_function_arguments(oid), pg_get_function_result(oid))
          FROM pg_proc
         WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind <> 'p'
        UNION ALL
        SELECT format('CREATE FUNCTION planted.%I(%s) RETURNS %s LANGUAGE internal AS ''trigger_in''',
                      'operator_' || oid, concat_ws(', ', nullif(oprleft, 0)::regtype, oprright::regtype), oprresult::regtype)
          FROM pg_operator
         WHERE oprnamespace = 'pg_catalog'::regnamespace
    LOOP
        BEGIN
            EXECUTE command;
        -- A few functions of types without values must look exactly so, or are ordered-set aggregates.
        EXCEPTION WHEN OTHERS THEN
            left_out := left_out + 1;
        END;
    END LOOP;
    ASSERT left_out < 100, left_out || ' functions are left out';

    FOR command IN
        SELECT format('CREATE OPERATOR planted.%s (%s RIGHTARG = %s, FUNCTION = planted.%I)', oprname,
                      'LEFTARG = ' || nullif(oprleft, 0)::regtype || ',', oprright::regtype, 'operator_' || oid)
          FROM pg_operator
         WHERE oprnamespace = 'pg_catalog'::regnamespace
    LOOP
        EXECUTE command;
    END LOOP;
END
$do$;

-- Operators on the extension's own types, which match better than those for any type.
CREATE PROCEDURE planted.on_types() LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    type regtype;
    operator text;
BEGIN
    FOR type IN SELECT t.oid FROM pg_type AS t WHERE t.typname LIKE 'rl\_%' AND t.typtype = 'e' LOOP
        EXECUTE format('CREATE FUNCTION planted.compare(%s, %s) RETURNS boolean LANGUAGE internal AS ''trigger_in''', type, type);
        FOREACH operator IN ARRAY '{=,<>,<,<=,>,>=}'::text[] LOOP
            EXECUTE format('CREATE OPERATOR planted.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = planted.compare)', operator, type, type);
        END LOOP;
    END LOOP;
END
$$;

-- Tables, views and types; also for temporary ones, which come first where nobody says otherwise.
CREATE PROCEDURE planted.relations(place text, pattern text) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('CREATE VIEW %s.%I AS SELECT 1 AS one WHERE planted.trap()', place, relname)
          FROM (SELECT DISTINCT relname FROM pg_class
                 WHERE relnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace) AND relkind IN ('r', 'v')
                   AND relname LIKE pattern) AS relations
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
CREATE PROCEDURE planted.types(place text, pattern text) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('CREATE DOMAIN %s.%I AS text CHECK (planted.trap())', place, typname)
          FROM (SELECT DISTINCT typname FROM pg_type
                 WHERE typnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace) AND typtype IN ('b', 'e') AND typcategory <> 'A'
                   AND typname LIKE pattern) AS types
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;
