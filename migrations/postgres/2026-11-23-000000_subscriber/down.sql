DROP TABLE installation, events, refusals, refresh_families, activation_codes, gateway_endpoints, payments, plan_regions;
DROP INDEX sessions_live;
DROP INDEX sessions_open;
DROP INDEX sessions_live_device;
CREATE INDEX sessions_subscription ON sessions (subscription_id);
UPDATE sessions SET outline_node_id = NULL WHERE outline_node_id NOT IN (SELECT id FROM outline_nodes);
UPDATE sessions SET subscription_id = NULL WHERE subscription_id NOT IN (SELECT id FROM subscriptions);
DELETE FROM sessions WHERE gateway_node_id NOT IN (SELECT id FROM gateway_nodes);
ALTER TABLE sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    ADD CONSTRAINT sessions_subscription_id_fkey
        FOREIGN KEY (subscription_id) REFERENCES subscriptions (id) ON DELETE SET NULL,
    ADD CONSTRAINT sessions_gateway_node_id_fkey FOREIGN KEY (gateway_node_id) REFERENCES gateway_nodes (id),
    ADD CONSTRAINT sessions_outline_node_id_fkey
        FOREIGN KEY (outline_node_id) REFERENCES outline_nodes (id) ON DELETE SET NULL;
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
