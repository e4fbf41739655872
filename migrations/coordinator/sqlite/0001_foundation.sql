-- The coordinator's state. Times are milliseconds since 1970 by the coordinator's clock.

-- One row: what all incarnations share.
CREATE TABLE cluster (
    singleton          integer PRIMARY KEY DEFAULT 1 CHECK (singleton = 1),
    -- Names this database to participants; made once. At most 32 bytes.
    cluster_id         text    NOT NULL,
    -- How many incarnations were born. Births compare and set it.
    incarnations       integer NOT NULL DEFAULT 0,
    -- Transactions with an id from before this may have been purged.
    purge_watermark_ms integer NOT NULL DEFAULT 0
) STRICT;
INSERT INTO cluster (cluster_id)
VALUES ('c' || lower(hex(randomblob(6))));

-- The right of an incarnation to write. Inserted at birth, then updated only by fencing: every
-- writing transaction reads its row first.
CREATE TABLE fences (
    incarnation integer PRIMARY KEY,
    node        text    NOT NULL,
    fenced      integer NOT NULL DEFAULT 0,
    -- Who ended it, in words.
    fenced_by   text
) STRICT;

-- A sign of life. Apart from the fence, so that renewals and writes never wait for each other.
CREATE TABLE heartbeats (
    incarnation integer PRIMARY KEY,
    counter     integer NOT NULL DEFAULT 0
) STRICT;

-- Each connection of an incarnation's journal begins with a write of its own here: what it reads
-- afterwards is as durable as that write.
CREATE TABLE journals (
    incarnation integer PRIMARY KEY,
    connections integer NOT NULL DEFAULT 1
) STRICT;

CREATE TABLE transactions (
    tx_id          blob     PRIMARY KEY,
    gid            text     NOT NULL UNIQUE,
    -- Who may write this row, how often it was written, and which write was the last.
    owner          integer  NOT NULL,
    version        integer  NOT NULL,
    write_id       blob     NOT NULL,
    mode           text     NOT NULL CHECK (mode IN ('2pc', 'tcc')),
    drive          text     NOT NULL CHECK (drive IN ('declarative', 'interactive')),
    digest         blob     NOT NULL,
    digest_version integer  NOT NULL,
    created_ms     integer  NOT NULL,
    deadline_ms    integer  NOT NULL,
    phase          text     NOT NULL
        CHECK (phase IN ('active', 'committing', 'aborting', 'committed', 'aborted')),
    abort_cause    text,
    abort_branch   integer,
    decided_ms     integer,
    ended_ms       integer,
    heuristic      text     NOT NULL DEFAULT 'none' CHECK (heuristic IN ('none', 'mixed', 'hazard')),
    stalled        integer  NOT NULL DEFAULT 0,
    forgotten      integer  NOT NULL DEFAULT 0,
    -- A person has to look at it: stalled or heuristic, and not settled.
    attention      integer  NOT NULL DEFAULT 0,
    -- Details are gone; gid, digest and outcome are kept for the idempotency retention.
    stripped       integer  NOT NULL DEFAULT 0,
    initiator      text     NOT NULL DEFAULT '',
    metadata       text     NOT NULL DEFAULT '{}',
    trace          text     NOT NULL DEFAULT '{}',
    -- How far each branch has come, by number.
    progress       text     NOT NULL DEFAULT '[]'
) STRICT;
CREATE INDEX transactions_open ON transactions (owner) WHERE ended_ms IS NULL;
CREATE INDEX transactions_ended ON transactions (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE INDEX transactions_attention ON transactions (tx_id) WHERE attention;

-- What was asked of each participant. Written once.
CREATE TABLE branches (
    tx_id       blob    NOT NULL,
    number      integer NOT NULL,
    branch_id   text    NOT NULL,
    participant text    NOT NULL,
    action      text    NOT NULL,
    -- Who sends Prepare.
    enlisted_by text    NOT NULL CHECK (enlisted_by IN ('coordinator', 'initiator')),
    payload     blob    NOT NULL,
    PRIMARY KEY (tx_id, number)
) STRICT;

-- What Prepare answered, where it answered anything. Written once.
CREATE TABLE outputs (
    tx_id  blob    NOT NULL,
    number integer NOT NULL,
    output blob    NOT NULL,
    PRIMARY KEY (tx_id, number)
) STRICT;

-- What a transaction's state does not tell. Operators' acts outlive the transaction.
CREATE TABLE events (
    tx_id   blob     NOT NULL,
    version integer  NOT NULL,
    ordinal integer  NOT NULL,
    at_ms   integer  NOT NULL,
    kind    text     NOT NULL,
    branch  integer,
    detail  text     NOT NULL,
    audit   integer  NOT NULL,
    PRIMARY KEY (tx_id, version, ordinal)
) STRICT;

-- Every participant's name that was ever registered, and where it answers.
CREATE TABLE participants (
    name text PRIMARY KEY
) STRICT;
CREATE TABLE endpoints (
    name         text    NOT NULL,
    endpoint     text    NOT NULL,
    last_seen_ms integer NOT NULL,
    PRIMARY KEY (name, endpoint)
) STRICT;
