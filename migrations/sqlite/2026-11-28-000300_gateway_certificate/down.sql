ALTER TABLE gateway_nodes DROP COLUMN certificate_ends;
ALTER TABLE gateway_nodes DROP COLUMN certificate_begins;
