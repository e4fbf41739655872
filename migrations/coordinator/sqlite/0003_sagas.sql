-- Sagas: steps, later starts, children, locks, and recorded history.

-- Modes and phases have new words. SQLite changes no CHECK of a table that is there, so its rows move
-- to another one, for the last time on account of new words: the program that reads a row checks them.
-- A transaction with phase 'in_doubt' has the time of its last vote in decided_ms.
CREATE TABLE transactions_next (
    tx_id          blob     PRIMARY KEY,
    gid            text     NOT NULL UNIQUE,
    -- Who may write this row, how often it was written, and which write was the last.
    owner          integer  NOT NULL,
    version        integer  NOT NULL,
    write_id       blob     NOT NULL,
    mode           text     NOT NULL,
    drive          text     NOT NULL
        CHECK (drive IN ('declarative', 'interactive', 'tombstone')),
    digest         blob     NOT NULL,
    digest_version integer  NOT NULL,
    created_ms     integer  NOT NULL,
    deadline_ms    integer  NOT NULL,
    phase          text     NOT NULL,
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
    progress       text     NOT NULL DEFAULT '[]',
    -- JSON, or empty: the time of the start, locks and the parent's branch. Never changes.
    begun_with     text     NOT NULL DEFAULT '',
    -- JSON, or empty: the time when it started, and more about the cause of an ABORT.
    more           text     NOT NULL DEFAULT '',
    -- It sleeps, in nobody's memory, and is due at this time. NULL: it does not sleep.
    wake_ms        integer
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
-- Whoever adopts what is open does not pass those that sleep, be they a million.
CREATE INDEX transactions_open ON transactions (owner)
    WHERE ended_ms IS NULL AND wake_ms IS NULL;
CREATE INDEX transactions_asleep ON transactions (wake_ms) WHERE wake_ms IS NOT NULL;
CREATE INDEX transactions_ended ON transactions (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX transactions_attention ON transactions (tx_id) WHERE attention;

CREATE TABLE branches_next (
    tx_id        blob    NOT NULL,
    number       integer NOT NULL,
    branch_id    text    NOT NULL,
    participant  text    NOT NULL,
    action       text    NOT NULL,
    -- Who sends Prepare.
    enlisted_by  text    NOT NULL CHECK (enlisted_by IN ('coordinator', 'initiator')),
    payload      blob    NOT NULL,
    -- Media type of the payload; empty: not known.
    payload_type text    NOT NULL DEFAULT '',
    -- NULL: the transaction's mode. Rows from before this column have it.
    mode         text,
    -- JSON: place and manners in a saga. NULL: none, as in every other mode.
    step         text,
    PRIMARY KEY (tx_id, number)
) STRICT;
INSERT INTO branches_next (
    tx_id, number, branch_id, participant, action, enlisted_by, payload, payload_type, mode)
SELECT tx_id, number, branch_id, participant, action, enlisted_by, payload, payload_type, mode
FROM branches;
DROP TABLE branches;
ALTER TABLE branches_next RENAME TO branches;

-- Names that transactions hold against each other, or wait for. A row counts only while its
-- transaction has not ended.
CREATE TABLE locks (
    name      text    NOT NULL,
    tx_id     blob    NOT NULL,
    -- The transaction at the top: those below it hold their locks together with it. Its age is
    -- theirs.
    family    blob    NOT NULL,
    exclusive integer NOT NULL,
    -- Held; if not, waited for.
    granted   integer NOT NULL,
    PRIMARY KEY (name, tx_id, exclusive)
) STRICT, WITHOUT ROWID;
CREATE INDEX locks_of_transaction ON locks (tx_id);

-- Inputs that led to each version, for export and replay. JSON.
CREATE TABLE history (
    tx_id   blob    NOT NULL,
    version integer NOT NULL,
    entry   text    NOT NULL,
    PRIMARY KEY (tx_id, version)
) STRICT;
