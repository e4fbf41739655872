-- Media types of payloads and outputs, the mode of each branch, and who registered an endpoint.

ALTER TABLE branches
    -- Media type of the payload; empty: not known.
    ADD COLUMN payload_type text NOT NULL DEFAULT '',
    -- NULL: the transaction's mode. Rows from before this column have it.
    ADD COLUMN mode         text;

ALTER TABLE outputs
    -- Media type of the output; empty: not known.
    ADD COLUMN output_type text NOT NULL DEFAULT '';

ALTER TABLE endpoints
    -- The life of the participant's process that registered last. Empty: not known.
    ADD COLUMN instance_id text COLLATE "C" NOT NULL DEFAULT '';

-- A rollback of a gid that was never seen leaves a tombstone: a transaction without branches with
-- mode 'none', drive 'tombstone' and digest version 0, aborted and ended from the start.
