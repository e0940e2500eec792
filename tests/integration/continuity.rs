//! What a user keeps while connections, gateways and networks change.

mod dead_links;
mod drained_gateway;
mod replaced_sessions;
mod resume;
mod user_view;
