DROP TABLE session_tombstones, sessions, node_health, gateway_exit_regions, gateway_nodes, outline_nodes, regions,
    usage_periods, subscriptions, plans, devices, users;
