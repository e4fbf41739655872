-- The media type of what Prepare answered: a duplicate gets the same. Empty: not known.
--
-- DDL is not undone by a rollback here: after an interruption this is run again, and the column may be
-- there already. Only MariaDB knows ADD COLUMN IF NOT EXISTS, so the statement is chosen.
SET @unanimo_alter = IF(
    (SELECT count(*) FROM information_schema.columns
     WHERE table_schema = DATABASE() AND table_name = 'unanimo_barrier'
        AND column_name = 'output_type') = 0,
    'ALTER TABLE unanimo_barrier ADD COLUMN output_type
        varchar(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT ''''',
    'DO 0');
PREPARE unanimo_alter FROM @unanimo_alter;
EXECUTE unanimo_alter;
DEALLOCATE PREPARE unanimo_alter;
