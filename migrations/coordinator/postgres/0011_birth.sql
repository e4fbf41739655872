-- Where the database is, who was put out of its place, and the time that the purge goes by.

ALTER TABLE cluster
    -- Tells the database from a copy of it. NULL: not known yet.
    ADD COLUMN place          text,
    -- The place in which it was made a copy of another one.
    ADD COLUMN copied_at      text,
    -- Time of the last purge on which all clocks agreed. NULL: there was none.
    ADD COLUMN purge_clock_ms bigint;

ALTER TABLE fences
    -- It was alive when it was fenced: its process has said so.
    ADD COLUMN displaced boolean NOT NULL DEFAULT false;

ALTER TABLE transactions
    -- When its details were deleted, by the purge's time. NULL: they were deleted before this column
    -- was there, or are not.
    ADD COLUMN stripped_ms bigint;
