-- Place of the database that each process of a participant works on: a copy of a database has the id of its original,
-- and another place.

ALTER TABLE endpoints ADD COLUMN database_place text NOT NULL DEFAULT '';
