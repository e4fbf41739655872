-- The feed: events of transactions that have ended, are held up or were forgotten, made of rows of the log behind the
-- work.

-- Rows that may tell of something, in the order in which each incarnation has written them.
CREATE INDEX log_news ON log (write_id) WHERE kind & 128 <> 0;

CREATE TABLE feed_events (
    -- In the order in which events can be seen.
    revision bigint PRIMARY KEY,
    added_ms bigint NOT NULL,
    tx_id    uuid   NOT NULL,
    -- The rest of it: see coordinator/src/feed/event.rs. Empty where a process begins.
    body     bytea  NOT NULL
);

-- One row: the ends of the feed.
CREATE TABLE feed (
    singleton       smallint PRIMARY KEY DEFAULT 1 CHECK (singleton = 1),
    last_revision   bigint   NOT NULL DEFAULT 0,
    -- The last one that was purged.
    purged_revision bigint   NOT NULL DEFAULT 0,
    -- Whatever incarnations before this one have written is in the feed.
    done_before     bigint   NOT NULL
);
INSERT INTO feed (done_before) SELECT coalesce(max(incarnation), 0) + 1 FROM fences;

-- How far the rows of an incarnation are in the feed.
CREATE TABLE feed_cursors (
    incarnation bigint PRIMARY KEY,
    -- Grows with each change: who changes the row compares it.
    step        bigint NOT NULL,
    -- Writes before this one are in the feed,
    next_write  uuid   NOT NULL,
    -- but for these, 16 bytes each: nobody knew what became of them.
    open_writes bytea  NOT NULL
);
