//! HTTVPS: a VPN service behind ordinary HTTPS. Control plane, gateway and reference client (docs/01).

#![cfg_attr(
    test,
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::decimal_bitwise_operands,
        clippy::large_stack_arrays,
        clippy::let_underscore_must_use,
        clippy::wildcard_enum_match_arm,
        reason = "tests say things shortly"
    )
)]

pub mod api;
pub mod base32;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod digest;
pub mod frame;
pub mod gateway;
pub mod lifecycle;
pub mod metrics;
pub mod migrate;
pub mod mux;
pub mod net;
pub mod seal;
pub mod shadowsocks;
pub mod telemetry;
pub mod token;
