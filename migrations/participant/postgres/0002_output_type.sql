-- The media type of what Prepare answered: a duplicate gets the same. Empty: not known.
--
-- IF NOT EXISTS: the column may have been added by hand to a table that was made by the service.
ALTER TABLE unanimo_barrier ADD COLUMN IF NOT EXISTS output_type text NOT NULL DEFAULT '';
