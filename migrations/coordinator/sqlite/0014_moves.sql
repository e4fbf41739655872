-- A flag that calls the database moved, and may have been left behind.

-- Names of the nodes, with blanks between them, whose last start was given --moved without a place:
-- given at the next one again, it accepts no move.
ALTER TABLE cluster ADD COLUMN moved_by text NOT NULL DEFAULT '';
