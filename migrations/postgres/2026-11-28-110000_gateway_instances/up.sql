CREATE TABLE gateway_instances (
    gateway_node_id UUID NOT NULL REFERENCES gateway_nodes (id) ON DELETE CASCADE,
    id UUID NOT NULL,
    version TEXT NOT NULL,
    sessions BIGINT NOT NULL,
    streams BIGINT NOT NULL,
    acked_seq BIGINT NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    last_heartbeat_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (gateway_node_id, id)
);
