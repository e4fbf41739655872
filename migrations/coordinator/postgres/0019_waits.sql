-- Participants that transactions out of memory wait for. A row is written before the transaction sleeps, and goes
-- with the claim that wakes it. One of a transaction that is awake means nothing. From `due_ms` on it is tried, whether
-- its participant is known to be back or not.
CREATE TABLE waits (
    tx_id       uuid             NOT NULL,
    participant text COLLATE "C" NOT NULL,
    due_ms      bigint           NOT NULL,
    PRIMARY KEY (tx_id, participant)
);
CREATE INDEX waits_participant ON waits (participant, tx_id);
CREATE INDEX waits_due ON waits (participant, due_ms);
