-- Participants that transactions out of memory wait for. A row is written before the transaction sleeps, and goes
-- with the claim that wakes it. One of a transaction that is awake means nothing; the purge takes it.
CREATE TABLE waits (
    tx_id       uuid             NOT NULL,
    participant text COLLATE "C" NOT NULL,
    PRIMARY KEY (tx_id, participant)
);
CREATE INDEX waits_participant ON waits (participant, tx_id);
