-- Whose a transaction is that sleeps, and what it holds. The columns are explained beside the same table for PostgreSQL.

ALTER TABLE parked ADD COLUMN initiator text;
ALTER TABLE parked ADD COLUMN bytes integer;
