-- Webhooks: how far each has been sent the feed, and what its receiver did not take.

CREATE TABLE webhooks (
    name             text   PRIMARY KEY,
    -- Grows with each change: who changes the row compares it.
    step             bigint NOT NULL,
    -- Events up to this revision were taken, are dead letters, or were not asked for.
    after_revision   bigint NOT NULL,
    -- Since when the receiver has taken nothing.
    failing_since_ms bigint,
    -- Hash of the address at which the receiver has said that it is gone; empty if it has not.
    gone             bytea  NOT NULL
);

-- Events that a receiver did not take for so long that they were given up.
CREATE TABLE webhook_dead_letters (
    name     text    NOT NULL,
    revision bigint  NOT NULL,
    tx_id    uuid    NOT NULL,
    -- The event, as in feed_events.
    body     bytea   NOT NULL,
    died_ms  bigint  NOT NULL,
    attempts integer NOT NULL,
    -- The last failure.
    cause    text    NOT NULL,
    -- It is to be sent again.
    due      boolean NOT NULL DEFAULT false,
    PRIMARY KEY (name, revision)
);
CREATE INDEX webhook_dead_letters_died ON webhook_dead_letters (died_ms);
