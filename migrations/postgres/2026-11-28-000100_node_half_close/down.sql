ALTER TABLE outline_nodes DROP COLUMN half_close;
