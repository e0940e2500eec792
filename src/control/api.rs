//! The REST API (docs/02).

mod admin;
mod admission;
mod client;
mod enrollment;
mod error;
mod events;
mod extract;
mod gateway_enrollment;
mod heartbeat;
mod lenient;
mod router;
mod text;
mod usage;
mod views;

pub(super) use router::router;
