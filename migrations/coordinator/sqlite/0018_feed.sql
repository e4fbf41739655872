-- The feed: events of transactions that have ended, are held up or were forgotten. The columns are explained beside the
-- same tables for PostgreSQL.

CREATE INDEX log_news ON log (write_id) WHERE kind & 128 <> 0;

CREATE TABLE feed_events (
    revision integer PRIMARY KEY,
    added_ms integer NOT NULL,
    tx_id    blob    NOT NULL,
    body     blob    NOT NULL
) STRICT;

CREATE TABLE feed (
    singleton       integer PRIMARY KEY DEFAULT 1 CHECK (singleton = 1),
    last_revision   integer NOT NULL DEFAULT 0,
    purged_revision integer NOT NULL DEFAULT 0,
    done_before     integer NOT NULL
) STRICT;
INSERT INTO feed (done_before) SELECT coalesce(max(incarnation), 0) + 1 FROM fences;

CREATE TABLE feed_cursors (
    incarnation integer PRIMARY KEY,
    step        integer NOT NULL,
    next_write  blob    NOT NULL,
    open_writes blob    NOT NULL
) STRICT;
