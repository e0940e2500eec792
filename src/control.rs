//! The control plane: users, plans, nodes, gateways, sessions and their accounting, over REST (docs/02).

mod accounting;
mod admission;
pub mod db;
mod models;
mod sweep;
