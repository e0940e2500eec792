//! Decisions: facts in, decision out; no SQL, no HTTP and no clock of their own (docs/01, "The control plane's rooms").

pub(crate) mod accounting;
pub(crate) mod admission;
pub(crate) mod billing;
pub(crate) mod catalog;
pub(crate) mod device_limit;
pub(crate) mod diagnosis;
pub(crate) mod enrollment;
pub(crate) mod identifier;
pub(crate) mod lease;
