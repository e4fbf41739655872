-- Clients' names by epochs. A name is inserted under the epoch of its time, in a part of the index that stays small,
-- and is looked for under the earlier ones only where their filters say that it may be there.

CREATE TABLE epochs (
    epoch     integer PRIMARY KEY,
    -- Drawn when the next one began: no name is inserted under this one since. NULL: it is the last one.
    closed_by uuid,
    -- What tells that a name is not among its names; see coordinator/src/store/postgres/names/filter.rs. NULL: nothing
    -- tells it, and each name is looked for.
    filter    bytea
);

-- A transaction has about three rows. A sample of many millions finds hardly two of one, and the planner takes them for
-- rows of few transactions.
ALTER TABLE log ALTER COLUMN tx_id SET (n_distinct = -0.33);

-- The epoch under which names are inserted, and what was drawn when it began. An incarnation has both beside its fence,
-- which each batch locks.
ALTER TABLE cluster
    ADD COLUMN epoch       integer NOT NULL DEFAULT 1,
    ADD COLUMN epoch_nonce uuid    NOT NULL DEFAULT gen_random_uuid();
ALTER TABLE fences
    ADD COLUMN epoch       integer,
    ADD COLUMN epoch_nonce uuid;

-- Names from before this version are those of epoch 0.
ALTER TABLE gids ADD COLUMN epoch integer NOT NULL DEFAULT 0;
ALTER TABLE gids ALTER COLUMN epoch DROP DEFAULT;
ALTER TABLE gids DROP CONSTRAINT gids_pkey, ADD PRIMARY KEY (epoch, key);

-- The planner knows nothing of the new column, and of a small table whose values are large nothing later either.
ANALYZE gids;
ALTER TABLE epochs SET (autovacuum_vacuum_threshold = 8, autovacuum_analyze_threshold = 8);

INSERT INTO epochs (epoch, closed_by) SELECT 0, epoch_nonce FROM cluster WHERE EXISTS (SELECT 1 FROM gids);
INSERT INTO epochs (epoch) SELECT epoch FROM cluster;
