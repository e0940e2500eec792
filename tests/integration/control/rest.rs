//! The REST API on both databases, one file per resource.

mod administration;
mod contract;
mod credentials;
mod gateways;
mod idempotency;
mod lists;
mod nodes;
mod regions;
mod revisions;
mod sessions;
mod usage;
mod validation;
