//! HTTVPS: a VPN service behind ordinary HTTPS. Control plane, gateway and reference client (docs/01).

pub mod api;
pub mod cli;
pub mod client;
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
pub mod shadowsocks;
pub mod telemetry;
pub mod token;
