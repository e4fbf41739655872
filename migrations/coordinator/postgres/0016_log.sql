-- Transactions as a log: rows that are inserted, and never updated. The program brings the rows of the
-- earlier tables here, in the transaction of this migration, and drops those tables.

-- One row for each step of a transaction that was written. The key is the compare-and-set: of two that follow
-- one version, one is inserted.
CREATE TABLE log (
    tx_id       uuid     NOT NULL,
    -- The version that it follows; 0 where the transaction begins.
    follows     bigint   NOT NULL,
    version     bigint   NOT NULL,
    -- Who wrote it, and which write it was.
    owner       bigint   NOT NULL,
    write_id    uuid     NOT NULL,
    -- Phase in the low four bits, and marks: see coordinator/src/store/rows/kind.rs.
    kind        smallint NOT NULL,
    -- Of a transaction that has ended: when it was begun and when it ended.
    created_ms  bigint,
    ended_ms    bigint,
    -- When its details were deleted, by the purge's time.
    stripped_ms bigint,
    -- Names, state and events; empty where a new owner has only taken it over.
    body        bytea    NOT NULL,
    -- Payloads and outputs. NULL: none are new.
    data        bytea,
    -- Recorded history. NULL: none is new.
    history     bytea,
    PRIMARY KEY (tx_id, follows)
);
CREATE INDEX log_ended ON log (ended_ms) WHERE ended_ms IS NOT NULL AND stripped_ms IS NULL;
CREATE INDEX log_stripped ON log (ended_ms) WHERE stripped_ms IS NOT NULL;

-- Clients' names: the first 16 bytes of each one's SHA-256.
CREATE TABLE gids (
    key   bytea PRIMARY KEY,
    tx_id uuid  NOT NULL
);

-- Transactions that stand out: open for longer than some seconds, asleep, or in need of a person.
CREATE TABLE parked (
    tx_id   uuid     PRIMARY KEY,
    owner   bigint   NOT NULL,
    -- When it is due, if it sleeps.
    wake_ms bigint,
    -- Why a person has to look at it; 0: nobody has to.
    reasons smallint NOT NULL DEFAULT 0
);
CREATE INDEX parked_owner ON parked (owner) WHERE wake_ms IS NULL;
CREATE INDEX parked_asleep ON parked (wake_ms) WHERE wake_ms IS NOT NULL;
CREATE INDEX parked_attention ON parked (tx_id) WHERE reasons <> 0;

-- Transactions that an incarnation could not read, and goes on without.
CREATE TABLE aside (
    tx_id       uuid   PRIMARY KEY,
    incarnation bigint NOT NULL
);

ALTER TABLE fences
    -- A batch parks what it begins under an identifier from before this one.
    ADD COLUMN parks_before  uuid    NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    -- It also parks what it begins under this one or a later one.
    ADD COLUMN parks_from    uuid    NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    -- Whatever of it is open, and has an identifier from before this one, is parked.
    ADD COLUMN parked_before uuid    NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    -- It is fenced, and all that it left open is parked.
    ADD COLUMN all_parked    boolean NOT NULL DEFAULT false;
UPDATE fences SET all_parked = true;
