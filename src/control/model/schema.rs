macro_rules! tables {
    ($($table:ident ($($key:ident),+) { $($column:ident -> $kind:ty,)+ })+) => {
        $(diesel::table! {
            use diesel::sql_types::*;
            use crate::control::model::types::{SqlTime, SqlUuid};
            $table ($($key),+) { $($column -> $kind,)+ }
        })+
    };
}

tables! {
    users (id) {
        id -> SqlUuid,
        identifier_kind -> Text,
        identifier -> Text,
        status -> Text,
        created_at -> SqlTime,
        updated_at -> SqlTime,
        revision -> Integer,
    }
    devices (id) {
        id -> SqlUuid,
        user_id -> SqlUuid,
        device_uuid -> Text,
        platform -> Text,
        name -> Text,
        client_version -> Nullable<Text>,
        status -> Text,
        created_at -> SqlTime,
        last_seen_at -> Nullable<SqlTime>,
        revision -> Integer,
    }
    plans (id) {
        id -> SqlUuid,
        name -> Text,
        max_devices -> Nullable<Integer>,
        max_sessions -> Nullable<Integer>,
        traffic_limit_gb -> Nullable<Double>,
        rate_limit_mbps -> Nullable<Integer>,
        period -> Text,
        period_days -> Nullable<Integer>,
        grace_hours -> Integer,
        fail_open_mb -> Integer,
        price -> BigInt,
        currency -> Text,
        created_at -> SqlTime,
        revision -> Integer,
    }
    subscriptions (id) {
        id -> SqlUuid,
        user_id -> SqlUuid,
        plan_id -> SqlUuid,
        status -> Text,
        starts_at -> SqlTime,
        valid_until -> SqlTime,
        cancelled_at -> Nullable<SqlTime>,
        created_at -> SqlTime,
        revision -> Integer,
    }
    usage_periods (subscription_id, period_start) {
        subscription_id -> SqlUuid,
        period_start -> SqlTime,
        bytes_up -> BigInt,
        bytes_down -> BigInt,
        bonus_bytes -> BigInt,
    }
    regions (id) {
        id -> SqlUuid,
        code -> Text,
        name -> Text,
        names -> Text,
        exit_country -> Text,
        udp -> Bool,
        ipv6 -> Bool,
        resolvers -> Text,
        revision -> Integer,
    }
    outline_nodes (id) {
        id -> SqlUuid,
        region_id -> SqlUuid,
        name -> Text,
        internal_ip -> Text,
        ss_port -> Integer,
        ss_method -> Text,
        ss_password -> Text,
        ss_password_old -> Nullable<Text>,
        generation -> Integer,
        oldest_generation -> Integer,
        max_sessions -> Integer,
        active_sessions -> Integer,
        weight -> Integer,
        state -> Text,
        health_status -> Text,
        half_close -> Nullable<Bool>,
        last_heartbeat_at -> Nullable<SqlTime>,
        created_at -> SqlTime,
        revision -> Integer,
    }
    gateway_nodes (id) {
        id -> SqlUuid,
        region_id -> SqlUuid,
        name -> Text,
        public_ip -> Text,
        internal_ip -> Text,
        status -> Text,
        draining -> Bool,
        token_hash -> Text,
        old_token_hash -> Nullable<Text>,
        enrol_hash -> Nullable<Text>,
        enrol_until -> Nullable<SqlTime>,
        revoked -> Bool,
        acked_seq -> BigInt,
        version -> Text,
        sessions -> BigInt,
        streams -> BigInt,
        last_heartbeat_at -> Nullable<SqlTime>,
        created_at -> SqlTime,
        clock_offset_ms -> Nullable<BigInt>,
        certificate_begins -> Nullable<SqlTime>,
        certificate_ends -> Nullable<SqlTime>,
        revision -> Integer,
    }
    gateway_instances (gateway_node_id, id) {
        gateway_node_id -> SqlUuid,
        id -> SqlUuid,
        version -> Text,
        sessions -> BigInt,
        streams -> BigInt,
        acked_seq -> BigInt,
        started_at -> SqlTime,
        last_heartbeat_at -> SqlTime,
    }
    gateway_exit_regions (gateway_node_id, region_id) {
        gateway_node_id -> SqlUuid,
        region_id -> SqlUuid,
    }
    node_health (outline_node_id, gateway_node_id) {
        outline_node_id -> SqlUuid,
        gateway_node_id -> SqlUuid,
        healthy -> Bool,
        latency_ms -> Nullable<Integer>,
        checked_at -> SqlTime,
        settled -> Bool,
        streak -> Integer,
        error -> Nullable<Text>,
    }
    sessions (id) {
        id -> SqlUuid,
        user_id -> SqlUuid,
        device_id -> SqlUuid,
        subscription_id -> Nullable<SqlUuid>,
        gateway_node_id -> SqlUuid,
        outline_node_id -> Nullable<SqlUuid>,
        state -> Text,
        started_at -> SqlTime,
        last_report_at -> Nullable<SqlTime>,
        expires_at -> SqlTime,
        ended_at -> Nullable<SqlTime>,
        bytes_up -> BigInt,
        bytes_down -> BigInt,
        lease_bytes -> BigInt,
        lease_period -> Nullable<SqlTime>,
        silent -> Bool,
    }
    session_tombstones (id) {
        id -> SqlUuid,
        bytes_up -> BigInt,
        bytes_down -> BigInt,
        deleted_at -> SqlTime,
    }
    plan_regions (plan_id, region_id) {
        plan_id -> SqlUuid,
        region_id -> SqlUuid,
    }
    payments (id) {
        id -> Text,
        subscription_id -> SqlUuid,
        kind -> Text,
        days -> Integer,
        bytes -> BigInt,
        created_at -> SqlTime,
    }
    gateway_endpoints (id) {
        id -> SqlUuid,
        gateway_node_id -> SqlUuid,
        host -> Text,
        port -> Integer,
        sni -> Text,
        path -> Text,
        transports -> Text,
        tls_pin -> Text,
        weight -> Integer,
        state -> Text,
        created_at -> SqlTime,
        revision -> Integer,
    }
    activation_codes (id) {
        id -> SqlUuid,
        user_id -> SqlUuid,
        code_hash -> Text,
        created_at -> SqlTime,
        expires_at -> SqlTime,
        used_at -> Nullable<SqlTime>,
        device_id -> Nullable<SqlUuid>,
    }
    refresh_families (id) {
        id -> SqlUuid,
        device_id -> SqlUuid,
        token_hash -> Text,
        previous_hash -> Nullable<Text>,
        issued_at -> SqlTime,
        expires_at -> SqlTime,
    }
    refusals (id) {
        id -> SqlUuid,
        device_id -> SqlUuid,
        gateway_node_id -> Nullable<SqlUuid>,
        code -> Text,
        client_version -> Nullable<Text>,
        support_id -> Text,
        created_at -> SqlTime,
    }
    events (seq) {
        seq -> BigInt,
        kind -> Text,
        subject -> Nullable<SqlUuid>,
        code -> Nullable<Text>,
        created_at -> SqlTime,
    }
    installation (id) {
        id -> Integer,
        epoch -> SqlUuid,
        last_seq -> BigInt,
    }
    write_probe (id) {
        id -> Integer,
        filler -> Binary,
    }
    idempotent_requests (key_hash) {
        key_hash -> Text,
        fingerprint -> Text,
        status -> Nullable<Integer>,
        body -> Nullable<Text>,
        etag -> Nullable<Text>,
        created_at -> SqlTime,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    users,
    devices,
    plans,
    subscriptions,
    usage_periods,
    regions,
    outline_nodes,
    gateway_nodes,
    gateway_exit_regions,
    gateway_instances,
    node_health,
    sessions,
    session_tombstones,
    plan_regions,
    payments,
    gateway_endpoints,
    activation_codes,
    refresh_families,
    refusals,
    events,
    installation,
    write_probe,
    idempotent_requests,
);
