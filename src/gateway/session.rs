//! A client's session: what its streams share, and what another connection needs to go on with it.

use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use uuid::Uuid;

use super::GatewayState;
use super::account::Account;
use super::egress::Lookups;
use super::nodes::Exit;
use super::resume::Tickets;
use crate::frame::Encoding;

/// One open session.
pub(super) struct Session {
    pub(super) state: Arc<GatewayState>,
    pub(super) account: Arc<Account>,
    pub(super) id: Uuid,
    pub(super) encoding: Encoding,
    pub(super) tickets: Mutex<Tickets>,
    pub(super) user: Uuid,
    pub(super) device: Uuid,
    pub(super) region: String,
    pub(super) exit: RwLock<Arc<Exit>>,
    pub(super) moving: tokio::sync::Mutex<()>,
    /// Until when a session with a draining node does not look for another again.
    pub(super) stays_until: Mutex<Option<Instant>>,
    pub(super) lookups: Lookups,
}
