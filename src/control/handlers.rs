//! The REST handlers (docs/02).

pub(super) mod admin;
mod admission;
pub(super) mod client;
mod enrolment;
mod events;
mod gateway_enrol;
mod heartbeat;
mod usage;
mod views;

pub(super) use admission::{assign_outline, jwks, validate_device};
pub(super) use enrolment::{enroll, refresh};
pub(super) use events::{ack, events};
pub(super) use gateway_enrol::gateway_enroll;
pub(super) use heartbeat::{gateway_heartbeat, outline_heartbeat};
pub(super) use usage::report;
