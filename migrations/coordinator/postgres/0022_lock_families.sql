-- Locks of children, by the transaction at the top. Its own are found by its id, so that a lock outside of a family
-- costs no entry.
CREATE INDEX locks_of_family ON locks (family) WHERE family <> tx_id;
