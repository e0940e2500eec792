CREATE TABLE users (
    id BLOB PRIMARY KEY NOT NULL,
    identifier_kind TEXT NOT NULL CHECK (identifier_kind IN ('email', 'telegram_id', 'phone')),
    identifier TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'banned', 'pending')),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (identifier_kind, identifier)
);

CREATE TABLE devices (
    id BLOB PRIMARY KEY NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    device_uuid TEXT NOT NULL,
    platform TEXT NOT NULL,
    client_version TEXT,
    status TEXT NOT NULL CHECK (status IN ('active', 'revoked')),
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT,
    UNIQUE (user_id, device_uuid)
);

CREATE TABLE plans (
    id BLOB PRIMARY KEY NOT NULL,
    name TEXT NOT NULL UNIQUE,
    max_devices INTEGER CHECK (max_devices > 0),
    max_sessions INTEGER CHECK (max_sessions > 0),
    traffic_limit_gb DOUBLE CHECK (traffic_limit_gb >= 0),
    rate_limit_mbps INTEGER CHECK (rate_limit_mbps > 0),
    period TEXT NOT NULL CHECK (period IN ('month', 'term')),
    price BIGINT NOT NULL CHECK (price >= 0),
    currency TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE subscriptions (
    id BLOB PRIMARY KEY NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    plan_id BLOB NOT NULL REFERENCES plans (id),
    status TEXT NOT NULL CHECK (status IN ('active', 'expired', 'cancelled')),
    starts_at BIGINT NOT NULL,
    valid_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    CHECK (valid_until > starts_at)
);
CREATE INDEX subscriptions_user ON subscriptions (user_id, valid_until);
CREATE INDEX subscriptions_plan ON subscriptions (plan_id);

CREATE TABLE usage_periods (
    subscription_id BLOB NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    period_start BIGINT NOT NULL,
    bytes_up BIGINT NOT NULL,
    bytes_down BIGINT NOT NULL,
    PRIMARY KEY (subscription_id, period_start)
);

CREATE TABLE regions (
    id BLOB PRIMARY KEY NOT NULL,
    code TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL
);

CREATE TABLE outline_nodes (
    id BLOB PRIMARY KEY NOT NULL,
    region_id BLOB NOT NULL REFERENCES regions (id),
    name TEXT NOT NULL,
    internal_ip TEXT NOT NULL,
    ss_port INTEGER NOT NULL CHECK (ss_port BETWEEN 1 AND 65535),
    ss_method TEXT NOT NULL,
    ss_password TEXT NOT NULL,
    max_sessions INTEGER NOT NULL CHECK (max_sessions >= 0),
    active_sessions INTEGER NOT NULL,
    weight INTEGER NOT NULL CHECK (weight > 0),
    state TEXT NOT NULL CHECK (state IN ('active', 'draining', 'maintenance')),
    health_status TEXT NOT NULL CHECK (health_status IN ('unknown', 'healthy', 'unhealthy', 'offline')),
    last_heartbeat_at BIGINT,
    created_at BIGINT NOT NULL,
    UNIQUE (internal_ip, ss_port)
);
CREATE INDEX outline_nodes_region ON outline_nodes (region_id);

CREATE TABLE gateway_nodes (
    id BLOB PRIMARY KEY NOT NULL,
    region_id BLOB NOT NULL REFERENCES regions (id),
    name TEXT NOT NULL UNIQUE,
    public_ip TEXT NOT NULL,
    internal_ip TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('unknown', 'online', 'offline')),
    draining BOOLEAN NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    sessions BIGINT NOT NULL,
    streams BIGINT NOT NULL,
    last_heartbeat_at BIGINT,
    created_at BIGINT NOT NULL
);
CREATE INDEX gateway_nodes_region ON gateway_nodes (region_id);

CREATE TABLE gateway_exit_regions (
    gateway_node_id BLOB NOT NULL REFERENCES gateway_nodes (id) ON DELETE CASCADE,
    region_id BLOB NOT NULL REFERENCES regions (id) ON DELETE CASCADE,
    PRIMARY KEY (gateway_node_id, region_id)
);
CREATE INDEX gateway_exit_regions_region ON gateway_exit_regions (region_id);

CREATE TABLE node_health (
    outline_node_id BLOB NOT NULL REFERENCES outline_nodes (id) ON DELETE CASCADE,
    gateway_node_id BLOB NOT NULL REFERENCES gateway_nodes (id) ON DELETE CASCADE,
    healthy BOOLEAN NOT NULL,
    latency_ms INTEGER,
    checked_at BIGINT NOT NULL,
    PRIMARY KEY (outline_node_id, gateway_node_id)
);
CREATE INDEX node_health_gateway ON node_health (gateway_node_id);

CREATE TABLE sessions (
    id BLOB PRIMARY KEY NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id),
    device_id BLOB NOT NULL REFERENCES devices (id),
    subscription_id BLOB REFERENCES subscriptions (id) ON DELETE SET NULL,
    gateway_node_id BLOB NOT NULL REFERENCES gateway_nodes (id),
    outline_node_id BLOB REFERENCES outline_nodes (id) ON DELETE SET NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'active', 'ended', 'expired', 'reaped', 'killed')),
    started_at BIGINT NOT NULL,
    last_report_at BIGINT,
    expires_at BIGINT NOT NULL,
    ended_at BIGINT,
    bytes_up BIGINT NOT NULL CHECK (bytes_up >= 0),
    bytes_down BIGINT NOT NULL CHECK (bytes_down >= 0)
);
CREATE INDEX sessions_device ON sessions (device_id, started_at);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_subscription ON sessions (subscription_id);
CREATE INDEX sessions_gateway ON sessions (gateway_node_id);
CREATE INDEX sessions_live ON sessions (expires_at) WHERE state IN ('reserved', 'active');
CREATE INDEX sessions_live_node ON sessions (outline_node_id) WHERE state IN ('reserved', 'active');
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE session_tombstones (
    id BLOB PRIMARY KEY NOT NULL,
    bytes_up BIGINT NOT NULL,
    bytes_down BIGINT NOT NULL,
    deleted_at BIGINT NOT NULL
);
CREATE INDEX session_tombstones_deleted ON session_tombstones (deleted_at);
