-- Webhooks: how far each has been sent the feed, and what its receiver did not take. The columns are explained beside the
-- same tables for PostgreSQL.

CREATE TABLE webhooks (
    name             text    NOT NULL PRIMARY KEY,
    step             integer NOT NULL,
    after_revision   integer NOT NULL,
    failing_since_ms integer,
    gone             blob    NOT NULL
) STRICT;

CREATE TABLE webhook_dead_letters (
    name     text    NOT NULL,
    revision integer NOT NULL,
    tx_id    blob    NOT NULL,
    body     blob    NOT NULL,
    died_ms  integer NOT NULL,
    attempts integer NOT NULL,
    cause    text    NOT NULL,
    due      integer NOT NULL DEFAULT 0,
    PRIMARY KEY (name, revision)
) STRICT;
CREATE INDEX webhook_dead_letters_died ON webhook_dead_letters (died_ms);
