//! Real processes, real databases, real Shadowsocks servers.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::decimal_bitwise_operands,
    clippy::expect_used,
    clippy::items_after_statements,
    clippy::large_futures,
    clippy::large_stack_arrays,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unused_io_amount,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking and says things shortly"
)]

mod abuse;
mod accounting;
mod acme;
mod away;
mod behind;
mod billing;
mod certificates;
mod cluster;
mod command_line;
mod continuity;
mod corpus;
mod database;
mod database_faults;
mod datagrams;
mod demo;
mod destination;
mod disk;
mod documents;
mod drills;
mod early;
mod edge;
mod egress;
mod ends;
mod enforcement;
mod enrolment;
mod http2;
mod http2_fallback;
mod http2_foreign;
mod http2_peer;
mod http2_shared;
mod instances;
mod layers;
mod leases;
mod limits;
mod line;
mod memory;
mod mistakes;
mod moved;
mod nginx;
mod node;
mod nodes;
mod notices;
mod periods;
mod pool;
mod pooler;
mod portal;
mod proc;
mod process;
mod proxies;
mod python;
mod query_plans;
mod raw;
mod refusals;
mod replaces;
mod replicas;
mod rest;
mod restart;
mod restore;
mod resume;
mod revocation;
mod schema;
mod schemas;
mod silence;
mod socks;
mod standing;
mod surroundings;
mod takeover;
mod tls;
mod transfer;
mod trust;
mod tunnels;
mod vectors;
mod why;
mod world;
