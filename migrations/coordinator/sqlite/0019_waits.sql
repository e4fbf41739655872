-- Participants that transactions out of memory wait for. It is explained beside the same table for PostgreSQL.
CREATE TABLE waits (
    tx_id       blob    NOT NULL,
    participant text    NOT NULL,
    due_ms      integer NOT NULL,
    PRIMARY KEY (tx_id, participant)
) STRICT, WITHOUT ROWID;
CREATE INDEX waits_participant ON waits (participant, tx_id);
CREATE INDEX waits_due ON waits (participant, due_ms);
