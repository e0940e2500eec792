//! Bans, revocations and limits reach live sessions.

mod cutoffs;
mod events;
mod revocation;
