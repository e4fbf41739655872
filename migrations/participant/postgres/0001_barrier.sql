-- What makes a participant's operations idempotent and ordered: a row for each branch, in the same
-- local transaction as the branch's effects. It belongs in the participant's own database.
--
-- state:
--   running    inserted, and no vote yet. Seen by nobody but its own transaction, unless a handler
--              ended that transaction by itself.
--   prepared   TCC: reserved; it can be confirmed and cancelled. Saga: done; it can be compensated.
--   read_only  nothing was written, no phase two is owed.
--   refused    voted no; nothing of it was kept.
--   committed  TCC, saga: confirmed. Two-phase commit: the row is inside the prepared transaction, so that
--              whoever sees it knows that it was committed.
--   cancelled  undone; or a tombstone: Cancel came before Prepare, which now has no effect.
--   lost       Commit found nothing to commit.
CREATE TABLE unanimo_barrier (
    tx_id       uuid        NOT NULL,
    branch_id   text        NOT NULL COLLATE "C",
    -- Whose branch it is: the coordinator's database, and this participant's name. Only that
    -- coordinator is asked about it, and only that participant asks.
    cluster_id  text        NOT NULL COLLATE "C",
    participant text        NOT NULL COLLATE "C",
    -- For people.
    gid         text        NOT NULL,
    action      text        NOT NULL,
    mode        text        NOT NULL CHECK (mode IN ('tcc', '2pc', 'saga')),
    state       text        NOT NULL CHECK (state IN (
        'running', 'prepared', 'read_only', 'refused', 'committed', 'cancelled', 'lost')),
    -- What Prepare answered, so that a duplicate gets the same.
    output      bytea       NOT NULL DEFAULT '',
    reason      text        NOT NULL DEFAULT '',
    message     text        NOT NULL DEFAULT '',
    -- After it a Prepare that finds no row is refused: from then on rows may be purged. NULL: never.
    prepare_until timestamptz,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tx_id, branch_id)
) WITH (fillfactor = 70);

-- What the sweeper looks for: few rows, however large the table is.
CREATE INDEX unanimo_barrier_in_doubt ON unanimo_barrier (participant, tx_id, branch_id)
    INCLUDE (changed_at) WHERE state = 'prepared';

-- What the purge looks for. Rows in other states are never purged.
CREATE INDEX unanimo_barrier_purge ON unanimo_barrier (prepare_until, tx_id, branch_id)
    WHERE state IN ('read_only', 'refused', 'committed', 'cancelled');
