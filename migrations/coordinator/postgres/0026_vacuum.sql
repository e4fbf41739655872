-- The purge deletes at one end of each index. A vacuum that leaves the indexes as they are, because few of the table's pages
-- have something to clean, leaves all dead entries at that end, and whatever reads or weighs that end passes over them. By
-- default nothing is vacuumed before a fifth of the table is dead.

ALTER TABLE log SET (vacuum_index_cleanup = on, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE gids SET (vacuum_index_cleanup = on, autovacuum_vacuum_scale_factor = 0.05);
