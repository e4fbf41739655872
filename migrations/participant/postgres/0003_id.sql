-- An id of this database, made at random and once. It tells two databases apart that serve one
-- participant's name, which would both do the same work. A restored backup and a standby have the same one.
--
-- IF NOT EXISTS: it may have been made by hand, or by an upgrade that was interrupted.
CREATE TABLE IF NOT EXISTS unanimo_barrier_id (
    only_one boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (only_one),
    id       text    NOT NULL
);
INSERT INTO unanimo_barrier_id (id) VALUES (gen_random_uuid()::text) ON CONFLICT DO NOTHING;
