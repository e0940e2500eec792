ALTER TABLE outline_nodes ADD COLUMN half_close BOOLEAN;
