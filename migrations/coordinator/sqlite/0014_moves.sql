-- A flag that calls the database moved, and may have been left behind.

-- The last start was given --moved without a place: given at the next one again, it accepts no move.
ALTER TABLE cluster ADD COLUMN moved_flag integer NOT NULL DEFAULT 0;
