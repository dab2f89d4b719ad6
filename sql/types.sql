\echo Use "CREATE EXTENSION ratelimit" to load this file. \quit

CREATE TYPE rl_algorithm AS ENUM ('token_bucket', 'fixed_window', 'sliding_window', 'sliding_log');
COMMENT ON TYPE rl_algorithm IS 'how a rule counts';

CREATE TYPE rl_storage AS ENUM ('memory', 'durable');
COMMENT ON TYPE rl_storage IS 'where a limiter counts: in shared memory, or in tables';

CREATE TYPE rl_on_rollback AS ENUM ('keep', 'refund');
COMMENT ON TYPE rl_on_rollback IS 'what becomes of what a transaction took when it rolls back';

CREATE TYPE rl_mode AS ENUM ('enforce', 'shadow', 'off');
COMMENT ON TYPE rl_mode IS 'whether a limiter refuses, only says what it would refuse, or does nothing';
