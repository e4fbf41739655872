-- History of the server that this database was on when a participant's sweeper looked last. Another one says
-- that a standby was promoted, or a backup restored, so that the last commits before may be missing.
--
-- IF NOT EXISTS: it may have been made by hand, or by an upgrade that was interrupted.
CREATE TABLE IF NOT EXISTS unanimo_barrier_timeline (
    participant text        NOT NULL PRIMARY KEY,
    -- system_identifier of pg_control_system().
    system_id   bigint      NOT NULL,
    timeline    bigint      NOT NULL,
    -- Time of the last look. What was committed before that is here as long as this row is.
    noted_at    timestamptz NOT NULL
);
