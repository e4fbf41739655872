-- Leases that rivals can read, fences that renewals meet, and transactions that are set aside.

ALTER TABLE heartbeats
    -- Length of the incarnation's lease, by which rivals go. 0: not known.
    ADD COLUMN lease_ms bigint  NOT NULL DEFAULT 0,
    -- Set together with the fence: a renewal and a fence meet in this row, and one of them wins.
    ADD COLUMN fenced   boolean NOT NULL DEFAULT false;
UPDATE heartbeats SET fenced = true
WHERE incarnation IN (SELECT incarnation FROM fences WHERE fenced);

ALTER TABLE transactions
    -- The incarnation that could not read this transaction, and goes on without it. NULL: none.
    ADD COLUMN set_aside_by bigint;
CREATE INDEX transactions_set_aside ON transactions (tx_id) WHERE set_aside_by IS NOT NULL;
