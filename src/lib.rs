//! HTTVPS: a VPN service behind ordinary HTTPS. Control plane, gateway and reference client (docs/01).

pub mod config;
pub mod frame;
pub mod mux;
