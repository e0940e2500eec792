//! Whether a device may have a session, and on which node (docs/02, docs/05).

use std::time::Duration;

use crate::control::db::types::{Id, Time};
use crate::control::models::{Device, Gateway, OutlineNode, Plan, Subscription, User};
use crate::frame::SessionCode;

/// What a gateway asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub gateway: Gateway,
    pub user: Id,
    pub device: Id,
    pub region: String,
    /// Reserve a node for this session.
    pub session: Option<Id>,
    pub exclude: Vec<Id>,
    pub client_version: Option<String>,
    pub now: Time,
    pub reservation_ttl: Duration,
    /// Chooses between nodes.
    pub random: u64,
}

/// What the database knows of a device.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub device: Option<(Device, User)>,
    pub subscription: Option<(Subscription, Plan)>,
    /// Bytes charged in this period.
    pub used: u64,
    /// Active devices of the user that are older than this one.
    pub older_devices: i64,
    /// Other live sessions of the device.
    pub live_sessions: i64,
}

/// What a device may do.
#[derive(Debug)]
pub(crate) struct Grant {
    pub user: User,
    pub subscription: Subscription,
    pub plan: Plan,
    pub remaining: Option<u64>,
}

/// A grant and, if it was asked for, the reserved node and the others of the region.
#[derive(Debug)]
pub(crate) struct Admission {
    pub grant: Grant,
    pub assigned: Option<(OutlineNode, Vec<Id>)>,
}

/// Why a device gets no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Code(SessionCode),
    #[error("the session id belongs to another device or gateway")]
    SessionTaken,
    #[error(transparent)]
    Database(#[from] diesel::result::Error),
}

impl From<SessionCode> for Refusal {
    fn from(code: SessionCode) -> Self {
        Self::Code(code)
    }
}

impl Facts {
    /// Decides, in the order in which a user can do something about it.
    pub(super) fn judge(self, wish: &Wish) -> Result<Grant, SessionCode> {
        let Some((device, user)) = self.device else { return Err(SessionCode::InvalidToken) };
        if user.id != wish.user {
            return Err(SessionCode::InvalidToken);
        }
        match user.status.as_str() {
            "banned" => return Err(SessionCode::UserBanned),
            "pending" => return Err(SessionCode::UserPending),
            _ => {}
        }
        if device.status != "active" {
            return Err(SessionCode::DeviceBanned);
        }
        let (subscription, plan) = self.subscription.ok_or(SessionCode::NoSubscription)?;
        if !subscription.is_valid(wish.now) {
            let expired = subscription.status == "expired" || subscription.valid_until <= wish.now;
            return Err(if expired { SessionCode::SubscriptionExpired } else { SessionCode::NoSubscription });
        }
        if plan.max_devices.is_some_and(|max| self.older_devices >= i64::from(max)) {
            return Err(SessionCode::DeviceLimit);
        }
        let remaining = plan.limit_bytes().map(|limit| limit.saturating_sub(self.used));
        if remaining == Some(0) {
            return Err(SessionCode::LimitReached);
        }
        if plan.max_sessions.is_some_and(|max| self.live_sessions >= i64::from(max)) {
            return Err(SessionCode::TooManySessions);
        }
        Ok(Grant { user, subscription, plan, remaining })
    }
}

/// Orders nodes by preference: the less loaded of two random ones first, then the rest by load.
pub(super) fn choose(mut nodes: Vec<OutlineNode>, random: u64) -> Vec<OutlineNode> {
    let load =
        |node: &OutlineNode| f64::from(node.active_sessions) / (f64::from(node.max_sessions) * f64::from(node.weight));
    nodes.sort_by(|a, b| load(a).total_cmp(&load(b)).then(a.id.cmp(&b.id)));
    if nodes.len() > 2 {
        let count = nodes.len() as u64;
        let first = random % count;
        let second = (first + 1 + (random >> 32) % (count - 1)) % count;
        let better = usize::try_from(first.min(second)).unwrap_or(0);
        let node = nodes.remove(better);
        nodes.insert(0, node);
    }
    nodes
}

#[cfg(test)]
mod tests;
