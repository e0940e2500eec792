//! Exit nodes: addresses, health, import, rotation, failover.

mod addresses;
mod failover;
mod health;
mod import;
mod rotation;
