ALTER TABLE gateway_nodes ADD COLUMN clock_offset_ms BIGINT;
