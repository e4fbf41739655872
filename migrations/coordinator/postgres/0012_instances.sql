-- Several processes of a participant may answer at one address, behind a balancer: each of them has a row.

ALTER TABLE endpoints DROP CONSTRAINT endpoints_pkey;
ALTER TABLE endpoints ADD PRIMARY KEY (name, endpoint, instance_id);
