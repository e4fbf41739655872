-- Media types of payloads and outputs, the mode of each branch, and who registered an endpoint.

-- Media type of the payload; empty: not known.
ALTER TABLE branches ADD COLUMN payload_type text NOT NULL DEFAULT '';
-- NULL: the transaction's mode. Rows from before this column have it.
ALTER TABLE branches ADD COLUMN mode text CHECK (mode IN ('2pc', 'tcc'));
-- Media type of the output; empty: not known.
ALTER TABLE outputs ADD COLUMN output_type text NOT NULL DEFAULT '';

-- The life of the participant's process that registered last. Empty: not known.
ALTER TABLE endpoints ADD COLUMN instance_id text NOT NULL DEFAULT '';

-- A rollback of a gid that was never seen leaves a tombstone: a transaction without branches with
-- mode 'none', drive 'tombstone' and digest version 0, aborted and ended from the start. SQLite
-- changes no CHECK of a table that is there, so its rows move to another one.
CREATE TABLE transactions_next (
    tx_id          blob     PRIMARY KEY,
    gid            text     NOT NULL UNIQUE,
    -- Who may write this row, how often it was written, and which write was the last.
    owner          integer  NOT NULL,
    version        integer  NOT NULL,
    write_id       blob     NOT NULL,
    mode           text     NOT NULL CHECK (mode IN ('2pc', 'tcc', 'none')),
    drive          text     NOT NULL
        CHECK (drive IN ('declarative', 'interactive', 'tombstone')),
    digest         blob     NOT NULL,
    digest_version integer  NOT NULL,
    created_ms     integer  NOT NULL,
    deadline_ms    integer  NOT NULL,
    phase          text     NOT NULL
        CHECK (phase IN ('active', 'committing', 'aborting', 'committed', 'aborted')),
    abort_cause    text,
    abort_branch   integer,
    decided_ms     integer,
    ended_ms       integer,
    heuristic      text     NOT NULL DEFAULT 'none' CHECK (heuristic IN ('none', 'mixed', 'hazard')),
    stalled        integer  NOT NULL DEFAULT 0,
    forgotten      integer  NOT NULL DEFAULT 0,
    -- A person has to look at it: stalled or heuristic, and not cleared.
    attention      integer  NOT NULL DEFAULT 0,
    -- Details are gone; gid, digest and outcome are kept for the idempotency retention.
    stripped       integer  NOT NULL DEFAULT 0,
    initiator      text     NOT NULL DEFAULT '',
    metadata       text     NOT NULL DEFAULT '{}',
    trace          text     NOT NULL DEFAULT '{}',
    -- How far each branch has come, by number.
    progress       text     NOT NULL DEFAULT '[]'
) STRICT;
INSERT INTO transactions_next (
    tx_id, gid, owner, version, write_id, mode, drive, digest, digest_version, created_ms,
    deadline_ms, phase, abort_cause, abort_branch, decided_ms, ended_ms, heuristic, stalled,
    forgotten, attention, stripped, initiator, metadata, trace, progress)
SELECT
    tx_id, gid, owner, version, write_id, mode, drive, digest, digest_version, created_ms,
    deadline_ms, phase, abort_cause, abort_branch, decided_ms, ended_ms, heuristic, stalled,
    forgotten, attention, stripped, initiator, metadata, trace, progress
FROM transactions;
DROP TABLE transactions;
ALTER TABLE transactions_next RENAME TO transactions;
CREATE INDEX transactions_open ON transactions (owner) WHERE ended_ms IS NULL;
CREATE INDEX transactions_ended ON transactions (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX transactions_attention ON transactions (tx_id) WHERE attention;
