-- Server that this database was on when a participant's sweeper looked last. Another one says that a replica was
-- promoted, or a backup restored elsewhere, so that the last commits before may be missing.
--
-- DDL is not undone by a rollback here: after an interruption this is run again.
CREATE TABLE IF NOT EXISTS unanimo_barrier_timeline (
    participant varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    -- server_id of MariaDB; the beginning of server_uuid of MySQL.
    system_id   bigint      NOT NULL,
    -- Time of the last look, UTC. What was committed before that is here as long as this row is.
    noted_at    datetime(6) NOT NULL
) ENGINE = InnoDB;
