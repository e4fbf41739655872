-- The database that each process of a participant works on, by the random id beside its barrier: after a start
-- the coordinator still tells a second database of a living name from the first one.

ALTER TABLE endpoints ADD COLUMN database_id text NOT NULL DEFAULT '';
