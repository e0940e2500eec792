//! The REST API on both databases, a file a resource.

mod administration;
mod gateways;
mod nodes;
mod regions;
mod sessions;
mod usage;
mod validation;
