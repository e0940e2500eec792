//! The REST handlers (docs/02).

pub(super) mod admin;
mod admission;
mod heartbeat;
mod usage;

pub(super) use admission::{assign_outline, jwks, validate_device};
pub(super) use heartbeat::{gateway_heartbeat, outline_heartbeat};
pub(super) use usage::report;
