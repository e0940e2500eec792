CREATE TABLE gateway_instances (
    gateway_node_id BLOB NOT NULL REFERENCES gateway_nodes (id) ON DELETE CASCADE,
    id BLOB NOT NULL,
    version TEXT NOT NULL,
    sessions BIGINT NOT NULL,
    streams BIGINT NOT NULL,
    acked_seq BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    last_heartbeat_at BIGINT NOT NULL,
    PRIMARY KEY (gateway_node_id, id)
);
