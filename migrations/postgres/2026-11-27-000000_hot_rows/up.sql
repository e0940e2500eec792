CREATE DOMAIN session_state AS TEXT
    CHECK (VALUE IN ('reserved', 'active', 'ended', 'expired', 'reaped', 'killed'));
CREATE DOMAIN byte_count AS BIGINT CHECK (VALUE >= 0);
CREATE DOMAIN port AS INTEGER CHECK (VALUE BETWEEN 1 AND 65535);
CREATE DOMAIN session_count AS INTEGER CHECK (VALUE >= 0);
CREATE DOMAIN node_weight AS INTEGER CHECK (VALUE > 0);
CREATE DOMAIN node_state AS TEXT CHECK (VALUE IN ('active', 'draining', 'maintenance'));
CREATE DOMAIN node_health_status AS TEXT CHECK (VALUE IN ('unknown', 'healthy', 'unhealthy', 'offline'));
CREATE DOMAIN device_status AS TEXT CHECK (VALUE IN ('active', 'revoked'));

ALTER TABLE sessions
    DROP CONSTRAINT sessions_state_check,
    DROP CONSTRAINT sessions_bytes_up_check,
    DROP CONSTRAINT sessions_bytes_down_check,
    ALTER COLUMN state TYPE session_state,
    ALTER COLUMN bytes_up TYPE byte_count,
    ALTER COLUMN bytes_down TYPE byte_count;
ALTER TABLE outline_nodes
    DROP CONSTRAINT outline_nodes_ss_port_check,
    DROP CONSTRAINT outline_nodes_max_sessions_check,
    DROP CONSTRAINT outline_nodes_weight_check,
    DROP CONSTRAINT outline_nodes_state_check,
    DROP CONSTRAINT outline_nodes_health_status_check,
    ALTER COLUMN ss_port TYPE port,
    ALTER COLUMN max_sessions TYPE session_count,
    ALTER COLUMN weight TYPE node_weight,
    ALTER COLUMN state TYPE node_state,
    ALTER COLUMN health_status TYPE node_health_status;
ALTER TABLE devices
    DROP CONSTRAINT devices_status_check,
    ALTER COLUMN status TYPE device_status;
DROP INDEX sessions_user;
