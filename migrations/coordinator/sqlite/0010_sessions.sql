-- Leases that rivals can read, and transactions that are set aside.

-- Length of the incarnation's lease, by which rivals go. 0: not known.
ALTER TABLE heartbeats ADD COLUMN lease_ms INTEGER NOT NULL DEFAULT 0;

-- The incarnation that could not read this transaction, and goes on without it. NULL: none.
ALTER TABLE transactions ADD COLUMN set_aside_by INTEGER;
CREATE INDEX transactions_set_aside ON transactions (tx_id) WHERE set_aside_by IS NOT NULL;
