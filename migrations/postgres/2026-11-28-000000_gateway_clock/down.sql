ALTER TABLE gateway_nodes DROP COLUMN clock_offset_ms;
