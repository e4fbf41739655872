-- Sagas: steps, later starts, children, locks, and recorded history.

ALTER TABLE branches
    -- JSON: place and manners in a saga. NULL: none, as in every other mode.
    ADD COLUMN step text;

-- Both are empty in most rows, and then cost nothing to read or write. A transaction with phase
-- 'in_doubt' has the time of its last vote in decided_ms.
ALTER TABLE transactions
    -- JSON: the time of the start, locks and the parent's branch. Never changes.
    ADD COLUMN begun_with text NOT NULL DEFAULT '',
    -- JSON: the time when it started, and more about the cause of an ABORT.
    ADD COLUMN more       text NOT NULL DEFAULT '',
    -- It sleeps, in nobody's memory, and is due at this time. NULL: it does not sleep.
    ADD COLUMN wake_ms    bigint;

-- Whoever adopts what is open does not pass those that sleep, be they a million.
DROP INDEX transactions_open;
CREATE INDEX transactions_open ON transactions (owner)
    WHERE ended_ms IS NULL AND wake_ms IS NULL;
CREATE INDEX transactions_asleep ON transactions (wake_ms) WHERE wake_ms IS NOT NULL;

-- Names that transactions hold against each other, or wait for. A row counts only while its
-- transaction has not ended.
CREATE TABLE locks (
    name      text    COLLATE "C" NOT NULL,
    tx_id     uuid    NOT NULL,
    -- The transaction at the top: those below it hold their locks together with it. Its age is
    -- theirs.
    family    uuid    NOT NULL,
    exclusive boolean NOT NULL,
    -- Held; if not, waited for.
    granted   boolean NOT NULL,
    PRIMARY KEY (name, tx_id, exclusive)
);
CREATE INDEX locks_of_transaction ON locks (tx_id);

-- Inputs that led to each version, for export and replay. JSON.
CREATE TABLE history (
    tx_id   uuid   NOT NULL,
    version bigint NOT NULL,
    entry   text   NOT NULL,
    PRIMARY KEY (tx_id, version)
);
