-- Several processes of a participant may answer at one address, behind a balancer: each of them has a row.

CREATE TABLE endpoints_of_instances (
    name         text    NOT NULL,
    endpoint     text    NOT NULL,
    instance_id  text    NOT NULL DEFAULT '',
    last_seen_ms integer NOT NULL,
    PRIMARY KEY (name, endpoint, instance_id)
) STRICT;
INSERT INTO endpoints_of_instances (name, endpoint, instance_id, last_seen_ms)
    SELECT name, endpoint, instance_id, last_seen_ms FROM endpoints;
DROP TABLE endpoints;
ALTER TABLE endpoints_of_instances RENAME TO endpoints;
