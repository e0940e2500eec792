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

mod accounting;
mod behind;
mod cli;
mod client;
mod continuity;
mod control;
mod database;
mod documents;
mod drills;
mod edge;
mod enforcement;
mod gateway;
mod layers;
mod nodes;
mod protocol;
mod support;
mod tunnel;
