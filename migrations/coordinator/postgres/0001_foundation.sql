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

-- One row for each transaction, written three times in its life: so nothing is checked here that its
-- one writer cannot get wrong (what is read back is), and the JSON in it is text, which costs nothing to
-- write. Values are those of coordinator/src/store/rows.rs.
CREATE TABLE transactions (
    tx_id          uuid    PRIMARY KEY,
    gid            text    COLLATE "C" NOT NULL UNIQUE,
    -- Who may write this row, how often it was written, and which write was the last.
    owner          bigint  NOT NULL,
    version        bigint  NOT NULL,
    write_id       uuid    NOT NULL,
    mode           text    NOT NULL,
    drive          text    NOT NULL,
    digest         bytea   NOT NULL,
    digest_version smallint NOT NULL,
    created_ms     bigint  NOT NULL,
    deadline_ms    bigint  NOT NULL,
    -- active, committing, aborting, committed, aborted
    phase          text    NOT NULL,
    abort_cause    text,
    abort_branch   smallint,
    decided_ms     bigint,
    ended_ms       bigint,
    heuristic      text    NOT NULL DEFAULT 'none',
    stalled        boolean NOT NULL DEFAULT false,
    forgotten      boolean NOT NULL DEFAULT false,
    -- A person has to look at it: stalled or heuristic, and not settled.
    attention      boolean NOT NULL DEFAULT false,
    -- Details are gone; gid, digest and outcome are kept for the idempotency retention.
    stripped       boolean NOT NULL DEFAULT false,
    initiator      text    NOT NULL DEFAULT '',
    metadata       text    NOT NULL DEFAULT '{}',
    trace          text    NOT NULL DEFAULT '{}',
    -- How far each branch has come, by number.
    progress       text    NOT NULL DEFAULT '[]'
) WITH (fillfactor = 35);
-- A decision changes no indexed column: it stays within its page (HOT), which has room for all of its
-- rows to be rewritten at once.
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
    enlisted_by text     NOT NULL,
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
