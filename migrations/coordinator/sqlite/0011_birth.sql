-- Where the database is, who was put out of its place, and the time that the purge goes by.

-- Tells the database from a copy of it. NULL: not known yet.
ALTER TABLE cluster ADD COLUMN place text;
-- The place in which it was made a copy of another one.
ALTER TABLE cluster ADD COLUMN copied_at text;
-- Time of the last purge on which all clocks agreed. NULL: there was none.
ALTER TABLE cluster ADD COLUMN purge_clock_ms integer;

-- It was alive when it was fenced: its process has said so.
ALTER TABLE fences ADD COLUMN displaced integer NOT NULL DEFAULT 0;

-- When its details were deleted, by the purge's time. NULL: they were deleted before this column was
-- there, or are not.
ALTER TABLE transactions ADD COLUMN stripped_ms integer;
