-- Whose a transaction is that sleeps, and what it holds: for the quotas of identities.

ALTER TABLE parked
    -- Who began it; empty without an identity. It means something where the row has a time to wake. NULL: the row is from
    -- before this column was there.
    ADD COLUMN initiator text,
    -- Bytes of its payloads, outputs, metadata and texts.
    ADD COLUMN bytes     bigint;
