-- An id of this database, made once and unlike all others. It tells two databases apart that serve one
-- participant's name, which would both do the same work. A restored backup and a replica have the same one.
--
-- DDL is not undone by a rollback here: after an interruption all of this is run again.
CREATE TABLE IF NOT EXISTS unanimo_barrier_id (
    only_one tinyint  NOT NULL PRIMARY KEY CHECK (only_one = 1),
    id       char(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL
) ENGINE = InnoDB;
INSERT IGNORE INTO unanimo_barrier_id (only_one, id) VALUES (1, UUID());
