-- The audit: acts of operators, calls that were denied, and changes of who may call. The columns are explained beside
-- the same tables for PostgreSQL.

CREATE TABLE audit (
    number integer PRIMARY KEY,
    at_ms  integer NOT NULL,
    body   blob    NOT NULL,
    hash   blob    NOT NULL
) STRICT;

CREATE TABLE audit_chain (
    singleton     integer PRIMARY KEY DEFAULT 1 CHECK (singleton = 1),
    last_number   integer NOT NULL DEFAULT 0,
    last_hash     blob    NOT NULL DEFAULT (zeroblob(32)),
    purged_number integer NOT NULL DEFAULT 0,
    purged_hash   blob    NOT NULL DEFAULT (zeroblob(32))
) STRICT;
INSERT INTO audit_chain DEFAULT VALUES;
