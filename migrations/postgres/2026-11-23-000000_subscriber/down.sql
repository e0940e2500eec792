DROP TABLE installation, events, refusals, refresh_families, activation_codes, gateway_endpoints, payments, plan_regions;
DROP INDEX sessions_live;
DROP INDEX sessions_open;
DROP INDEX sessions_live_device;
DROP INDEX sessions_node;
ALTER TABLE sessions DROP COLUMN lease_bytes, DROP COLUMN lease_period, DROP COLUMN silent;
CREATE INDEX sessions_live ON sessions (expires_at) WHERE state IN ('reserved', 'active');
ALTER TABLE devices DROP COLUMN name;
ALTER TABLE gateway_nodes DROP COLUMN old_token_hash, DROP COLUMN enrol_hash, DROP COLUMN enrol_until,
    DROP COLUMN revoked, DROP COLUMN acked_seq;
ALTER TABLE node_health DROP COLUMN settled, DROP COLUMN streak, DROP COLUMN error;
ALTER TABLE outline_nodes DROP COLUMN ss_password_old, DROP COLUMN generation, DROP COLUMN oldest_generation;
ALTER TABLE regions DROP COLUMN names, DROP COLUMN exit_country, DROP COLUMN udp, DROP COLUMN ipv6, DROP COLUMN resolvers;
ALTER TABLE usage_periods DROP COLUMN bonus_bytes;
ALTER TABLE subscriptions DROP COLUMN cancelled_at;
UPDATE plans SET period = 'month' WHERE period = 'days';
ALTER TABLE plans DROP COLUMN period_days, DROP COLUMN grace_hours, DROP COLUMN fail_open_mb,
    DROP CONSTRAINT plans_period_check, ADD CONSTRAINT plans_period_check CHECK (period IN ('month', 'term'));
