ALTER TABLE gateway_nodes ADD COLUMN certificate_begins TIMESTAMPTZ;
ALTER TABLE gateway_nodes ADD COLUMN certificate_ends TIMESTAMPTZ;
