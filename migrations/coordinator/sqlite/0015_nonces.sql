-- A number of an incarnation that was given twice, because the database has gone back, is told apart.

-- Drawn at birth, and matched by each statement of the incarnation. NULL: it was created before this column was
-- there, and writes no more.
ALTER TABLE fences ADD COLUMN nonce blob;
