//! What runs by itself, and what requests share (docs/01, "The control plane's rooms").

pub(crate) mod events;
pub(crate) mod gateways;
pub(crate) mod last_seen;
pub(crate) mod metrics;
pub(crate) mod nodes;
pub(crate) mod seal;
pub(crate) mod state;
pub(crate) mod sweep;

pub(crate) use state::ControlState;
