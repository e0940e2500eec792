ALTER TABLE gateway_nodes ADD COLUMN certificate_begins INTEGER;
ALTER TABLE gateway_nodes ADD COLUMN certificate_ends INTEGER;
