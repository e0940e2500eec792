//! The REST API on both databases, one file per resource.

mod administration;
mod gateways;
mod nodes;
mod regions;
mod sessions;
mod usage;
mod validation;
