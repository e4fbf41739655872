-- An id of this database, made at random and once. It tells two databases apart that serve one
-- participant's name, which would both do the same work. A copy of the file has the same one.
CREATE TABLE IF NOT EXISTS unanimo_barrier_id (
    only_one integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (only_one = 1),
    id       text    NOT NULL
) STRICT;
INSERT INTO unanimo_barrier_id (id) VALUES (lower(hex(randomblob(16)))) ON CONFLICT DO NOTHING;
