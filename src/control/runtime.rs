//! What runs by itself, and what requests share (docs/01, "The control plane's rooms").

pub(crate) mod events;
pub(crate) mod gateway_cache;
pub(crate) mod last_seen;
pub(crate) mod metrics;
pub(crate) mod node_cache;
pub(crate) mod seal;
pub(crate) mod state;
pub(crate) mod sweep;

pub(crate) use state::ControlState;
