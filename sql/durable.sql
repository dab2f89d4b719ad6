-- What keys of durable limiters have used. A call that takes adds a row to a ledger, which collides with nobody; house-keeping
-- folds the ledger into counts. There are two, so that one can be folded and truncated while the other is written. Truncating
-- leaves nothing to vacuum, and a vacuum would be in its way.
CREATE TABLE @extschema@.rl_counts (
    -- A digest of limiter, key and rule.
    key        uuid PRIMARY KEY,
    limiter    uuid NOT NULL,
    rule       integer NOT NULL,
    fresh_from timestamptz NOT NULL,
    state      bytea NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE rl_counts IS 'internal: what keys of durable limiters have used, up to what the ledgers hold';
ALTER TABLE @extschema@.rl_counts ALTER COLUMN state SET STORAGE MAIN;

CREATE TABLE @extschema@.rl_ledger_0 (
    key     uuid NOT NULL,
    limiter uuid NOT NULL,
    rule    integer NOT NULL,
    at      timestamptz NOT NULL,
    -- Negative: given back. Null: all that was taken before is forgotten.
    cost    bigint,
    -- So many microseconds ahead lies what was booked; null, and nothing to store, for what was not.
    wait    bigint
) WITH (autovacuum_enabled = off);
COMMENT ON TABLE rl_ledger_0 IS 'internal: what was taken from durable limiters';
CREATE INDEX rl_ledger_0_key ON @extschema@.rl_ledger_0 (key);
CREATE TABLE @extschema@.rl_ledger_1 (LIKE @extschema@.rl_ledger_0) WITH (autovacuum_enabled = off);
COMMENT ON TABLE rl_ledger_1 IS 'internal: what was taken from durable limiters';
CREATE INDEX rl_ledger_1_key ON @extschema@.rl_ledger_1 (key);

-- Who holds leases of durable limiters. Where memory is shared it decides, and reads this once after a start.
CREATE TABLE @extschema@.rl_leases (
    token      uuid PRIMARY KEY,
    -- A digest of limiter and key.
    digest     uuid NOT NULL,
    limiter    uuid NOT NULL,
    -- As rl_slots shows it: a long one is cut.
    key        text NOT NULL,
    -- Which of the key's slots it is, where no memory is shared.
    number     integer,
    since      timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE rl_leases IS 'internal: who holds leases of durable limiters';
CREATE INDEX rl_leases_digest ON @extschema@.rl_leases (digest);
