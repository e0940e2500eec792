CREATE INDEX sessions_user ON sessions (user_id);
ALTER TABLE devices
    ALTER COLUMN status TYPE TEXT,
    ADD CHECK (status IN ('active', 'revoked'));
ALTER TABLE outline_nodes
    ALTER COLUMN ss_port TYPE INTEGER,
    ALTER COLUMN max_sessions TYPE INTEGER,
    ALTER COLUMN weight TYPE INTEGER,
    ALTER COLUMN state TYPE TEXT,
    ALTER COLUMN health_status TYPE TEXT,
    ADD CHECK (ss_port BETWEEN 1 AND 65535),
    ADD CHECK (max_sessions >= 0),
    ADD CHECK (weight > 0),
    ADD CHECK (state IN ('active', 'draining', 'maintenance')),
    ADD CHECK (health_status IN ('unknown', 'healthy', 'unhealthy', 'offline'));
ALTER TABLE sessions
    ALTER COLUMN state TYPE TEXT,
    ALTER COLUMN bytes_up TYPE BIGINT,
    ALTER COLUMN bytes_down TYPE BIGINT,
    ADD CHECK (state IN ('reserved', 'active', 'ended', 'expired', 'reaped', 'killed')),
    ADD CHECK (bytes_up >= 0),
    ADD CHECK (bytes_down >= 0);
DROP DOMAIN session_state, byte_count, port, session_count, node_weight, node_state, node_health_status, device_status;
