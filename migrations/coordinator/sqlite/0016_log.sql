-- Transactions as a log: rows that are inserted, and never updated. The columns are explained beside the same
-- tables for PostgreSQL. The program brings the rows of the earlier tables here, in the transaction of this
-- migration, and drops those tables.

CREATE TABLE log (
    tx_id       blob    NOT NULL,
    follows     integer NOT NULL,
    version     integer NOT NULL,
    owner       integer NOT NULL,
    write_id    blob    NOT NULL,
    kind        integer NOT NULL,
    created_ms  integer,
    ended_ms    integer,
    stripped_ms integer,
    body        blob    NOT NULL,
    data        blob,
    history     blob,
    PRIMARY KEY (tx_id, follows)
) STRICT;
CREATE INDEX log_ended ON log (ended_ms) WHERE ended_ms IS NOT NULL AND stripped_ms IS NULL;
CREATE INDEX log_stripped ON log (ended_ms) WHERE stripped_ms IS NOT NULL;

CREATE TABLE gids (
    key   blob PRIMARY KEY,
    tx_id blob NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE parked (
    tx_id   blob    PRIMARY KEY,
    owner   integer NOT NULL,
    wake_ms integer,
    reasons integer NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX parked_owner ON parked (owner) WHERE wake_ms IS NULL;
CREATE INDEX parked_asleep ON parked (wake_ms) WHERE wake_ms IS NOT NULL;
CREATE INDEX parked_attention ON parked (tx_id) WHERE reasons <> 0;

CREATE TABLE aside (
    tx_id       blob    PRIMARY KEY,
    incarnation integer NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE fences ADD COLUMN parks_before  blob    NOT NULL DEFAULT x'00000000000000000000000000000000';
ALTER TABLE fences ADD COLUMN parks_from    blob    NOT NULL DEFAULT x'00000000000000000000000000000000';
ALTER TABLE fences ADD COLUMN parked_before blob    NOT NULL DEFAULT x'00000000000000000000000000000000';
ALTER TABLE fences ADD COLUMN all_parked    integer NOT NULL DEFAULT 0;
UPDATE fences SET all_parked = 1;
