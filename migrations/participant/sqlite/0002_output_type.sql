-- The media type of what Prepare answered: a duplicate gets the same. Empty: not known.
ALTER TABLE unanimo_barrier ADD COLUMN output_type text NOT NULL DEFAULT '';
