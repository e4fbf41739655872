-- The audit: acts of operators, calls that were denied, and changes of who may call. It is a chain: each entry has
-- a hash over its own content and the hash of the entry before.

CREATE TABLE audit (
    -- Without a gap.
    number bigint PRIMARY KEY,
    at_ms  bigint NOT NULL,
    -- The rest of its content: see coordinator/src/audit/entry.rs.
    body   bytea  NOT NULL,
    hash   bytea  NOT NULL
);

-- One row: the ends of the chain. Who adds an entry compares and sets it.
CREATE TABLE audit_chain (
    singleton     smallint PRIMARY KEY DEFAULT 1 CHECK (singleton = 1),
    last_number   bigint   NOT NULL DEFAULT 0,
    last_hash     bytea    NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    -- The last entry that was purged: the first one that is there follows it.
    purged_number bigint   NOT NULL DEFAULT 0,
    purged_hash   bytea    NOT NULL DEFAULT decode(repeat('00', 32), 'hex')
);
INSERT INTO audit_chain DEFAULT VALUES;
