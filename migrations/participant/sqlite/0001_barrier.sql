-- What makes a participant's operations idempotent and ordered: a row for each branch, in the same
-- local transaction as the branch's effects. It belongs in the participant's own database.
--
-- state:
--   running    inserted, and no vote yet. Seen by nobody but its own transaction, unless a handler
--              ended that transaction by itself.
--   prepared   reserved, or a saga's step that is done; it can be confirmed and cancelled.
--   read_only  nothing was written, no phase two is owed.
--   refused    voted no; nothing of it was kept.
--   committed  confirmed.
--   cancelled  undone; or a tombstone: Cancel came before Prepare, which now has no effect.
--   lost       Commit found nothing to commit.
CREATE TABLE unanimo_barrier (
    tx_id       text    NOT NULL,
    branch_id   text    NOT NULL,
    -- Whose branch it is: the coordinator's database, and this participant's name. Only that
    -- coordinator is asked about it, and only that participant asks.
    cluster_id  text    NOT NULL,
    participant text    NOT NULL,
    -- For people.
    gid         text    NOT NULL,
    action      text    NOT NULL,
    mode        text    NOT NULL CHECK (mode IN ('tcc', '2pc', 'saga')),
    state       text    NOT NULL CHECK (state IN (
        'running', 'prepared', 'read_only', 'refused', 'committed', 'cancelled', 'lost')),
    -- What Prepare answered, so that a duplicate gets the same.
    output      blob    NOT NULL DEFAULT x'',
    reason      text    NOT NULL DEFAULT '',
    message     text    NOT NULL DEFAULT '',
    -- After it a Prepare that finds no row is refused: from then on rows may be purged. NULL: never.
    prepare_until_ms integer,
    created_ms  integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    changed_ms  integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    PRIMARY KEY (tx_id, branch_id)
) STRICT, WITHOUT ROWID;

-- What the sweeper looks for: few rows, however large the table is.
CREATE INDEX unanimo_barrier_in_doubt ON unanimo_barrier (participant, tx_id, branch_id)
    WHERE state = 'prepared';

-- What the purge looks for.
CREATE INDEX unanimo_barrier_purge ON unanimo_barrier (prepare_until_ms, tx_id, branch_id)
    WHERE prepare_until_ms IS NOT NULL;
