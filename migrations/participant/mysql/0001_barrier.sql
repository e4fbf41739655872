-- What makes a participant's operations idempotent and ordered: a row for each branch, in the same
-- local transaction as the branch's effects. It belongs in the participant's own database, whose
-- tables must all be InnoDB's: no other engine takes part in a transaction.
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
--
-- Identifiers are ASCII and compared byte by byte: the server's usual collations would take a branch
-- `A` for a branch `a`. tx_id is text so that people and every client can read it. Times are UTC.
--
-- DDL is not undone by a rollback here: after an interruption all of this is run again, so it must do
-- no harm to what is there already.
CREATE TABLE IF NOT EXISTS unanimo_barrier (
    tx_id       char(36)      CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    branch_id   varchar(128)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- Whose branch it is: the coordinator's database, and this participant's name. Only that
    -- coordinator is asked about it, and only that participant asks.
    cluster_id  varchar(32)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    participant varchar(64)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    -- For people.
    gid         varchar(128)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    action      varchar(64)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    mode        varchar(8)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL
        CHECK (mode IN ('tcc', '2pc', 'saga')),
    state       varchar(16)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL CHECK (state IN (
        'running', 'prepared', 'read_only', 'refused', 'committed', 'cancelled', 'lost')),
    -- What Prepare answered, so that a duplicate gets the same.
    output      mediumblob    NOT NULL,
    reason      varchar(64)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    message     varchar(1024) CHARACTER SET utf8mb4 NOT NULL,
    -- After it a Prepare that finds no row is refused: from then on rows may be purged. Milliseconds
    -- since 1970. NULL: never.
    prepare_until_ms bigint,
    created_at  datetime(6)   NOT NULL,
    changed_at  datetime(6)   NOT NULL,
    PRIMARY KEY (tx_id, branch_id),
    -- What the sweeper looks for, and what the purge does.
    KEY unanimo_barrier_in_doubt (state, participant, tx_id, branch_id),
    KEY unanimo_barrier_purge (prepare_until_ms, tx_id, branch_id)
) ENGINE = InnoDB;
