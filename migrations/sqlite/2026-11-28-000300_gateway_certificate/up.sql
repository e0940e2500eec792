ALTER TABLE gateway_nodes ADD COLUMN certificate_begins BIGINT;
ALTER TABLE gateway_nodes ADD COLUMN certificate_ends BIGINT;
