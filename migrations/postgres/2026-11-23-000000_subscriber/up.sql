ALTER TABLE plans
    DROP CONSTRAINT plans_period_check,
    ADD CONSTRAINT plans_period_check CHECK (period IN ('month', 'days', 'term')),
    ADD COLUMN period_days INTEGER CHECK (period_days > 0),
    ADD COLUMN grace_hours INTEGER NOT NULL DEFAULT 0 CHECK (grace_hours >= 0),
    ADD COLUMN fail_open_mb INTEGER NOT NULL DEFAULT 100 CHECK (fail_open_mb >= 0);

CREATE TABLE plan_regions (
    plan_id UUID NOT NULL REFERENCES plans (id) ON DELETE CASCADE,
    region_id UUID NOT NULL REFERENCES regions (id),
    PRIMARY KEY (plan_id, region_id)
);
CREATE INDEX plan_regions_region ON plan_regions (region_id);

ALTER TABLE subscriptions ADD COLUMN cancelled_at TIMESTAMPTZ;

CREATE TABLE payments (
    id TEXT PRIMARY KEY,
    subscription_id UUID NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('renew', 'top_up')),
    days INTEGER NOT NULL,
    bytes BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX payments_subscription ON payments (subscription_id);

ALTER TABLE usage_periods ADD COLUMN bonus_bytes BIGINT NOT NULL DEFAULT 0 CHECK (bonus_bytes >= 0);

ALTER TABLE regions
    ADD COLUMN names TEXT NOT NULL DEFAULT '{}',
    ADD COLUMN exit_country TEXT NOT NULL DEFAULT '',
    ADD COLUMN udp BOOLEAN NOT NULL DEFAULT TRUE,
    ADD COLUMN ipv6 BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN resolvers TEXT NOT NULL DEFAULT '';

ALTER TABLE outline_nodes
    ADD COLUMN ss_password_old TEXT,
    ADD COLUMN generation INTEGER NOT NULL DEFAULT 1,
    ADD COLUMN oldest_generation INTEGER NOT NULL DEFAULT 1;

ALTER TABLE node_health
    ADD COLUMN settled BOOLEAN NOT NULL DEFAULT TRUE,
    ADD COLUMN streak INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN error TEXT;

ALTER TABLE gateway_nodes
    ADD COLUMN old_token_hash TEXT UNIQUE,
    ADD COLUMN enrol_hash TEXT UNIQUE,
    ADD COLUMN enrol_until TIMESTAMPTZ,
    ADD COLUMN revoked BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN acked_seq BIGINT NOT NULL DEFAULT 0;

CREATE TABLE gateway_endpoints (
    id UUID PRIMARY KEY,
    gateway_node_id UUID NOT NULL REFERENCES gateway_nodes (id) ON DELETE CASCADE,
    host TEXT NOT NULL,
    port INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    sni TEXT NOT NULL,
    path TEXT NOT NULL,
    transports TEXT NOT NULL,
    tls_pin TEXT NOT NULL,
    weight INTEGER NOT NULL CHECK (weight > 0),
    state TEXT NOT NULL CHECK (state IN ('active', 'reserve', 'blocked')),
    created_at TIMESTAMPTZ NOT NULL,
    UNIQUE (gateway_node_id, host, port, path)
);

ALTER TABLE devices ADD COLUMN name TEXT NOT NULL DEFAULT '';

CREATE TABLE activation_codes (
    id UUID PRIMARY KEY,
    user_id UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    code_hash TEXT NOT NULL UNIQUE,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    used_at TIMESTAMPTZ,
    device_id UUID REFERENCES devices (id) ON DELETE SET NULL
);
CREATE INDEX activation_codes_user ON activation_codes (user_id);
CREATE INDEX activation_codes_expires ON activation_codes (expires_at);
CREATE INDEX activation_codes_device ON activation_codes (device_id);

CREATE TABLE refresh_families (
    id UUID PRIMARY KEY,
    device_id UUID NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL,
    previous_hash TEXT,
    issued_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX refresh_families_device ON refresh_families (device_id);
CREATE INDEX refresh_families_expires ON refresh_families (expires_at);

CREATE TABLE refusals (
    id UUID PRIMARY KEY,
    device_id UUID NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    gateway_node_id UUID REFERENCES gateway_nodes (id) ON DELETE SET NULL,
    code TEXT NOT NULL,
    client_version TEXT,
    support_id TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX refusals_device ON refusals (device_id, created_at);
CREATE INDEX refusals_gateway ON refusals (gateway_node_id);
CREATE INDEX refusals_support ON refusals (support_id);

CREATE TABLE events (
    seq BIGINT PRIMARY KEY,
    kind TEXT NOT NULL,
    subject UUID,
    code TEXT,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX events_created ON events (created_at);

CREATE TABLE installation (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch UUID NOT NULL,
    last_seq BIGINT NOT NULL
);
INSERT INTO installation (id, epoch, last_seq) VALUES (1, gen_random_uuid(), 0);

ALTER TABLE sessions
    ADD COLUMN lease_bytes BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN lease_period TIMESTAMPTZ,
    ADD COLUMN silent BOOLEAN NOT NULL DEFAULT FALSE,
    DROP CONSTRAINT sessions_user_id_fkey,
    DROP CONSTRAINT sessions_subscription_id_fkey,
    DROP CONSTRAINT sessions_gateway_node_id_fkey,
    DROP CONSTRAINT sessions_outline_node_id_fkey,
    SET (fillfactor = 80);
DROP INDEX sessions_live;
DROP INDEX sessions_subscription;
CREATE INDEX sessions_live ON sessions (subscription_id) WHERE state IN ('reserved', 'active', 'killed');
CREATE INDEX sessions_live_device ON sessions (device_id) WHERE state IN ('reserved', 'active');
CREATE INDEX sessions_open ON sessions (gateway_node_id) WHERE state NOT IN ('ended', 'killed');
ALTER TABLE usage_periods SET (fillfactor = 80);
ALTER TABLE devices SET (fillfactor = 90);
