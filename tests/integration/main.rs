//! Real processes, real databases, real Shadowsocks servers.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod accounting;
mod database;
mod demo;
mod destination;
mod egress;
mod enforcement;
mod layers;
mod limits;
mod mistakes;
mod node;
mod process;
mod python;
mod refusals;
mod rest;
mod schema;
mod socks;
mod transfer;
mod world;
