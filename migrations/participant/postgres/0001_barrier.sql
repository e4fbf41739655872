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
    -- For people, and for asking the coordinator about branches in doubt.
    participant text        NOT NULL,
    gid         text        NOT NULL,
    action      text        NOT NULL,
    mode        text        NOT NULL CHECK (mode IN ('tcc', '2pc', 'saga')),
    state       text        NOT NULL CHECK (state IN (
        'running', 'prepared', 'read_only', 'refused', 'committed', 'cancelled', 'lost')),
    -- What Prepare answered, so that a duplicate gets the same.
    output      bytea       NOT NULL DEFAULT '',
    reason      text        NOT NULL DEFAULT '',
    message     text        NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tx_id, branch_id)
) WITH (fillfactor = 70);
