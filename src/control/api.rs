//! The REST API (docs/02).

#[expect(unused_qualifications, reason = "utoipa's own code has them")]
mod admin;
mod admission;
mod answer;
mod client;
mod contract;
mod enrollment;
mod error;
#[expect(unused_qualifications, reason = "utoipa's own code has them")]
mod events;
mod extract;
mod gateway_enrollment;
mod heartbeat;
mod idempotency;
#[expect(unused_qualifications, reason = "utoipa's own code has them")]
mod page;
mod patch;
mod refs;
mod router;
mod text;
mod usage;
mod views;

pub(super) use router::router;
