-- Locks of children, by the transaction at the top. It is explained beside the same index for PostgreSQL.
CREATE INDEX locks_of_family ON locks (family) WHERE family <> tx_id;
