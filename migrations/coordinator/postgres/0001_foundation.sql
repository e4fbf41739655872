-- The coordinator's state. Times are milliseconds since 1970 by the coordinator's clock.

-- One row: what all incarnations share.
CREATE TABLE cluster (
    singleton          boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- Names this database to participants; made once. At most 32 bytes.
    cluster_id         text    NOT NULL,
    -- How many incarnations were born. Births compare and set it.
    incarnations       bigint  NOT NULL DEFAULT 0,
    -- Transactions with an id from before this may have been purged.
    purge_watermark_ms bigint  NOT NULL DEFAULT 0
);
INSERT INTO cluster (cluster_id)
VALUES ('c' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12));

-- The right of an incarnation to write. Inserted at birth, then updated only by fencing: every
-- writing statement locks its row FOR SHARE.
CREATE TABLE fences (
    incarnation bigint  PRIMARY KEY,
    node        text    NOT NULL,
    fenced      boolean NOT NULL DEFAULT false,
    -- Who ended it, in words.
    fenced_by   text
);

-- A sign of life. Apart from the fence, so that renewals and writes never wait for each other.
CREATE TABLE heartbeats (
    incarnation bigint PRIMARY KEY,
    counter     bigint NOT NULL DEFAULT 0
);

-- Each connection of an incarnation's journal begins with a write of its own here: what it reads
-- afterwards is as durable as that write.
CREATE TABLE journals (
    incarnation bigint PRIMARY KEY,
    connections bigint NOT NULL DEFAULT 1
);

CREATE TABLE transactions (
    tx_id          uuid    PRIMARY KEY,
    gid            text    COLLATE "C" NOT NULL UNIQUE,
    -- Who may write this row, how often it was written, and which write was the last.
    owner          bigint  NOT NULL,
    version        bigint  NOT NULL,
    write_id       uuid    NOT NULL,
    mode           text    NOT NULL CHECK (mode IN ('2pc', 'tcc')),
    drive          text    NOT NULL CHECK (drive IN ('declarative', 'interactive')),
    digest         bytea   NOT NULL,
    digest_version smallint NOT NULL,
    created_ms     bigint  NOT NULL,
    deadline_ms    bigint  NOT NULL,
    phase          text    NOT NULL
        CHECK (phase IN ('active', 'committing', 'aborting', 'committed', 'aborted')),
    abort_cause    text,
    abort_branch   smallint,
    decided_ms     bigint,
    ended_ms       bigint,
    heuristic      text    NOT NULL DEFAULT 'none' CHECK (heuristic IN ('none', 'mixed', 'hazard')),
    stalled        boolean NOT NULL DEFAULT false,
    forgotten      boolean NOT NULL DEFAULT false,
    -- A person has to look at it: stalled or heuristic, and not settled.
    attention      boolean NOT NULL DEFAULT false,
    -- Details are gone; gid, digest and outcome are kept for the idempotency retention.
    stripped       boolean NOT NULL DEFAULT false,
    initiator      text    NOT NULL DEFAULT '',
    metadata       jsonb   NOT NULL DEFAULT '{}',
    trace          jsonb   NOT NULL DEFAULT '{}',
    -- How far each branch has come, by number.
    progress       jsonb   NOT NULL DEFAULT '[]'
) WITH (fillfactor = 70);
-- Most updates change no indexed column and stay within their page (HOT).
CREATE INDEX transactions_open ON transactions (owner) WHERE ended_ms IS NULL;
CREATE INDEX transactions_ended ON transactions (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX transactions_attention ON transactions (tx_id) WHERE attention;

-- What was asked of each participant. Written once.
CREATE TABLE branches (
    tx_id       uuid     NOT NULL,
    number      smallint NOT NULL,
    branch_id   text     COLLATE "C" NOT NULL,
    participant text     COLLATE "C" NOT NULL,
    action      text     NOT NULL,
    -- Who sends Prepare.
    enlisted_by text     NOT NULL CHECK (enlisted_by IN ('coordinator', 'initiator')),
    payload     bytea    NOT NULL,
    PRIMARY KEY (tx_id, number)
);

-- What Prepare answered, where it answered anything. Written once.
CREATE TABLE outputs (
    tx_id  uuid     NOT NULL,
    number smallint NOT NULL,
    output bytea    NOT NULL,
    PRIMARY KEY (tx_id, number)
);

-- What a transaction's state does not tell. Operators' acts outlive the transaction.
CREATE TABLE events (
    tx_id   uuid     NOT NULL,
    version bigint   NOT NULL,
    ordinal smallint NOT NULL,
    at_ms   bigint   NOT NULL,
    kind    text     NOT NULL,
    branch  smallint,
    detail  text     NOT NULL,
    audit   boolean  NOT NULL,
    PRIMARY KEY (tx_id, version, ordinal)
);

-- Every participant's name that was ever registered, and where it answers.
CREATE TABLE participants (
    name text COLLATE "C" PRIMARY KEY
);
CREATE TABLE endpoints (
    name         text   COLLATE "C" NOT NULL,
    endpoint     text   COLLATE "C" NOT NULL,
    last_seen_ms bigint NOT NULL,
    PRIMARY KEY (name, endpoint)
);
