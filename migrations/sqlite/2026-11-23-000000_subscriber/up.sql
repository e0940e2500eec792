CREATE TABLE plans_new (
    id BLOB PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    max_devices INTEGER CHECK (max_devices > 0),
    max_sessions INTEGER CHECK (max_sessions > 0),
    traffic_limit_gb DOUBLE CHECK (traffic_limit_gb >= 0),
    rate_limit_mbps INTEGER CHECK (rate_limit_mbps > 0),
    period TEXT NOT NULL CHECK (period IN ('month', 'days', 'term')),
    period_days INTEGER CHECK (period_days > 0),
    grace_hours INTEGER NOT NULL DEFAULT 0 CHECK (grace_hours >= 0),
    fail_open_mb INTEGER NOT NULL DEFAULT 100 CHECK (fail_open_mb >= 0),
    price BIGINT NOT NULL CHECK (price >= 0),
    currency TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
INSERT INTO plans_new (id, name, max_devices, max_sessions, traffic_limit_gb, rate_limit_mbps, period, price, currency, created_at)
    SELECT id, name, max_devices, max_sessions, traffic_limit_gb, rate_limit_mbps, period, price, currency, created_at FROM plans;
DROP TABLE plans;
ALTER TABLE plans_new RENAME TO plans;

CREATE TABLE plan_regions (
    plan_id BLOB NOT NULL REFERENCES plans (id) ON DELETE CASCADE,
    region_id BLOB NOT NULL REFERENCES regions (id),
    PRIMARY KEY (plan_id, region_id)
);
CREATE INDEX plan_regions_region ON plan_regions (region_id);

ALTER TABLE subscriptions ADD COLUMN cancelled_at BIGINT;

CREATE TABLE payments (
    id TEXT PRIMARY KEY NOT NULL,
    subscription_id BLOB NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('renew', 'top_up')),
    days INTEGER NOT NULL,
    bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX payments_subscription ON payments (subscription_id);

ALTER TABLE usage_periods ADD COLUMN bonus_bytes BIGINT NOT NULL DEFAULT 0 CHECK (bonus_bytes >= 0);

ALTER TABLE regions ADD COLUMN names TEXT NOT NULL DEFAULT '{}';
ALTER TABLE regions ADD COLUMN exit_country TEXT NOT NULL DEFAULT '';
ALTER TABLE regions ADD COLUMN udp BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE regions ADD COLUMN ipv6 BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE regions ADD COLUMN resolvers TEXT NOT NULL DEFAULT '';

ALTER TABLE outline_nodes ADD COLUMN ss_password_old TEXT;
ALTER TABLE outline_nodes ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;
ALTER TABLE outline_nodes ADD COLUMN oldest_generation INTEGER NOT NULL DEFAULT 1;

ALTER TABLE node_health ADD COLUMN settled BOOLEAN NOT NULL DEFAULT TRUE;
ALTER TABLE node_health ADD COLUMN streak INTEGER NOT NULL DEFAULT 0;
ALTER TABLE node_health ADD COLUMN error TEXT;

ALTER TABLE gateway_nodes ADD COLUMN old_token_hash TEXT;
CREATE UNIQUE INDEX gateway_nodes_old_token_hash ON gateway_nodes (old_token_hash);
ALTER TABLE gateway_nodes ADD COLUMN enrol_hash TEXT;
CREATE UNIQUE INDEX gateway_nodes_enrol_hash ON gateway_nodes (enrol_hash);
ALTER TABLE gateway_nodes ADD COLUMN enrol_until BIGINT;
ALTER TABLE gateway_nodes ADD COLUMN revoked BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE gateway_nodes ADD COLUMN acked_seq BIGINT NOT NULL DEFAULT 0;

CREATE TABLE gateway_endpoints (
    id BLOB PRIMARY KEY NOT NULL,
    gateway_node_id BLOB NOT NULL REFERENCES gateway_nodes (id) ON DELETE CASCADE,
    host TEXT NOT NULL,
    port INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    sni TEXT NOT NULL,
    path TEXT NOT NULL,
    transports TEXT NOT NULL,
    tls_pin TEXT NOT NULL,
    weight INTEGER NOT NULL CHECK (weight > 0),
    state TEXT NOT NULL CHECK (state IN ('active', 'reserve', 'blocked')),
    created_at BIGINT NOT NULL,
    UNIQUE (gateway_node_id, host, port, path)
);

ALTER TABLE devices ADD COLUMN name TEXT NOT NULL DEFAULT '';

CREATE TABLE activation_codes (
    id BLOB PRIMARY KEY NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    code_hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT,
    device_id BLOB REFERENCES devices (id) ON DELETE SET NULL
);
CREATE INDEX activation_codes_user ON activation_codes (user_id);
CREATE INDEX activation_codes_expires ON activation_codes (expires_at);
CREATE INDEX activation_codes_device ON activation_codes (device_id);

CREATE TABLE refresh_families (
    id BLOB PRIMARY KEY NOT NULL,
    device_id BLOB NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL,
    previous_hash TEXT,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX refresh_families_device ON refresh_families (device_id);
CREATE INDEX refresh_families_expires ON refresh_families (expires_at);

CREATE TABLE refusals (
    id BLOB PRIMARY KEY NOT NULL,
    device_id BLOB NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    gateway_node_id BLOB REFERENCES gateway_nodes (id) ON DELETE SET NULL,
    code TEXT NOT NULL,
    client_version TEXT,
    support_id TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX refusals_device ON refusals (device_id, created_at);
CREATE INDEX refusals_gateway ON refusals (gateway_node_id);
CREATE INDEX refusals_support ON refusals (support_id);

CREATE TABLE events (
    seq BIGINT PRIMARY KEY NOT NULL,
    kind TEXT NOT NULL,
    subject BLOB,
    code TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX events_created ON events (created_at);

CREATE TABLE installation (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    epoch BLOB NOT NULL,
    last_seq BIGINT NOT NULL
);
INSERT INTO installation (id, epoch, last_seq) VALUES (1, randomblob(16), 0);

ALTER TABLE sessions ADD COLUMN lease_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN lease_period BIGINT;
ALTER TABLE sessions ADD COLUMN silent BOOLEAN NOT NULL DEFAULT FALSE;
DROP INDEX sessions_live;
CREATE INDEX sessions_live ON sessions (subscription_id) WHERE state IN ('reserved', 'active', 'killed');
CREATE INDEX sessions_live_device ON sessions (device_id) WHERE state IN ('reserved', 'active');
CREATE INDEX sessions_node ON sessions (outline_node_id);
CREATE INDEX sessions_open ON sessions (gateway_node_id) WHERE state NOT IN ('ended', 'killed');
