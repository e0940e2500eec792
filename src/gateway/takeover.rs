//! A process takes a gateway over from one that serves, sockets included (docs/04, "Takeover").

mod claim;
mod conversation;
mod predecessor;
mod successor;

pub(super) use claim::Claim;
pub(super) use predecessor::Predecessor;
pub use predecessor::TakeoverError;
pub(super) use successor::{Offered, await_successor};
