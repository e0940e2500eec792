//! Whether a device may have a session, and on which node (docs/09, docs/05).

use std::sync::Arc;

use crate::control::domain::device_limit;
use crate::control::domain::lease::{Balance, Rules};
use crate::control::model::id::{DeviceId, NodeId, RegionId, SessionId, SubscriptionId, UserId};
use crate::control::model::state::{DeviceStatus, NodeHealth, UserStatus};
use crate::control::model::types::Time;
use crate::control::model::{
    Candidate, Counters, Device, Gateway, OutlineNode, Plan, Region, Session, Sighting, Subscription, User,
};
use crate::frame::SessionCode;

/// What a gateway asks for.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionRequest {
    pub gateway: Gateway,
    /// The regions that the gateway may use.
    pub exits: Arc<[Region]>,
    pub user: UserId,
    pub device: DeviceId,
    pub region: String,
    /// Reserve a node for this session.
    pub session: Option<SessionId>,
    /// The session has been named just now and is not there yet, unless the request is a repeated one.
    pub fresh: bool,
    /// The gateway has shown a fresh token of the device.
    pub vouched: bool,
    /// The session whose place this one takes, if it is the device's.
    pub replaces: Option<SessionId>,
    /// The nodes of the region to choose from.
    pub nodes: Vec<Candidate>,
    /// Nodes that the gateway cannot reach.
    pub exclude: Vec<NodeId>,
    pub client_version: Option<String>,
    pub now: Time,
    pub rules: Rules,
    /// Chooses between nodes.
    pub random: u64,
}

/// What the database knows of a device.
#[derive(Debug, Default)]
pub(crate) struct AdmissionContext {
    /// The user that the token names.
    pub user: Option<User>,
    /// The device, if it is his.
    pub device: Option<Device>,
    pub subscription: Option<(Subscription, Plan)>,
    /// Bytes charged in this period, and bought for it.
    pub counters: Counters,
    /// Active devices of the user that are older than this one.
    pub older_devices: i64,
    /// Other live sessions of the device, oldest first; none are looked at if the session has its place already.
    pub live_sessions: Vec<Live>,
    /// A session of the device that the client has given up and that is not over.
    pub given_up: Option<SessionId>,
    /// Whether the plan allows the region.
    pub region_allowed: bool,
}

/// A live session of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    pub session: SessionId,
    /// Its client is silent, or its gateway is draining or gone; known if there is no room for another session.
    pub fading: bool,
}

/// What a device may do.
#[derive(Debug)]
pub(crate) struct Grant {
    pub user: User,
    pub device: Device,
    pub subscription: Subscription,
    pub plan: Plan,
    /// The limit of this period, with what was bought.
    pub limit: Option<u64>,
    /// Bytes charged in this period, if there is a limit.
    pub used: u64,
    pub remaining: Option<u64>,
    /// Sessions that make room for this one: the one that was given up, and fading ones.
    pub replaces: Vec<SessionId>,
}

/// A grant and, if it was asked for, the reserved node and the others of the region.
#[derive(Debug)]
pub(crate) struct Admission {
    pub grant: Grant,
    pub assigned: Option<(OutlineNode, Vec<NodeId>)>,
    /// Bytes that the session may move, if the plan has a limit.
    pub allowed: Option<u64>,
    /// The event that ends replaced sessions.
    pub event_seq: Option<i64>,
    /// When the device was there, unless that is known well enough.
    pub seen: Option<Sighting>,
}

/// Why a device gets no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Code(SessionCode),
    #[error("the session id belongs to another device or gateway")]
    SessionTaken,
    #[error("the gateway has no fresh token of the device, and the session is none of its own")]
    NotVouched,
}

impl From<SessionCode> for Refusal {
    fn from(code: SessionCode) -> Self {
        Self::Code(code)
    }
}

impl AdmissionRequest {
    /// The wished region, or an id that no region has.
    pub(crate) fn region_or_none(&self) -> RegionId {
        self.region_id().unwrap_or(RegionId::nil())
    }

    /// Those of some nodes that the gateway can reach.
    pub(crate) fn reachable(&self, mut nodes: Vec<Candidate>) -> Vec<Candidate> {
        nodes.retain(|node| self.can_reach(node.id));
        nodes
    }

    pub(crate) fn can_reach(&self, node: NodeId) -> bool {
        !self.exclude.contains(&node)
    }

    /// Whether a session is the gateway's and the device's, and live.
    pub(crate) fn owns(&self, session: &Session) -> bool {
        session.gateway_node_id == self.gateway.id
            && session.device_id == self.device
            && session.user_id == self.user
            && session.state.is_live()
    }

    /// The wished region, if the gateway may use it.
    pub(crate) fn region_id(&self) -> Option<RegionId> {
        self.exits.iter().find(|region| region.code == self.region).map(|region| region.id)
    }
}

impl AdmissionContext {
    /// The subscription and the period that are charged, if its plan has a limit.
    pub(crate) fn account(&self, wish: &AdmissionRequest) -> Option<(SubscriptionId, Time)> {
        let (subscription, plan) = self.subscription.as_ref()?;
        plan.traffic_limit_gb?;
        Some((subscription.id, plan.period(subscription, wish.now, &wish.rules.calendar).start))
    }

    /// Sessions that a grant would replace, sorted.
    pub(crate) fn replaced(&self) -> Vec<SessionId> {
        let max = self.subscription.as_ref().and_then(|(_, plan)| plan.max_sessions);
        let mut replaced = max.and_then(|max| make_room(&self.live_sessions, max)).unwrap_or_default();
        replaced.extend(self.given_up);
        replaced.sort_unstable();
        replaced
    }

    /// Decides, in the order in which a user can do something about it.
    pub(crate) fn judge(self, wish: &AdmissionRequest) -> Result<Grant, SessionCode> {
        let (Some(device), Some(user)) = (self.device, self.user) else { return Err(SessionCode::InvalidToken) };
        match user.status {
            UserStatus::Banned => return Err(SessionCode::UserBanned),
            UserStatus::Pending => return Err(SessionCode::UserPending),
            UserStatus::Active => {}
        }
        if device.status != DeviceStatus::Active {
            return Err(SessionCode::DeviceBanned);
        }
        let (subscription, plan) = self.subscription.ok_or(SessionCode::NoSubscription)?;
        if !subscription.serves(&plan, wish.now) {
            let expired = subscription.has_expired(&plan, wish.now);
            return Err(if expired { SessionCode::SubscriptionExpired } else { SessionCode::NoSubscription });
        }
        if !device_limit::has_room(&plan, self.older_devices) {
            return Err(SessionCode::DeviceLimit);
        }
        let used = self.counters.used();
        let balance = Balance::of(&plan, self.counters.bonus(), used);
        let (limit, remaining) = (balance.map(|balance| balance.limit), balance.map(|balance| balance.remaining()));
        if remaining == Some(0) {
            return Err(SessionCode::LimitReached);
        }
        let mut replaces = match plan.max_sessions {
            Some(max) => make_room(&self.live_sessions, max).ok_or(SessionCode::TooManySessions)?,
            None => Vec::new(),
        };
        replaces.extend(self.given_up);
        if wish.region_id().is_none() || !self.region_allowed {
            return Err(SessionCode::UnknownRegion);
        }
        Ok(Grant { user, device, subscription, plan, limit, used, remaining, replaces })
    }
}

/// The fading sessions, oldest first, that have to end so that one more fits; `None` if the live ones leave no room.
fn make_room(live: &[Live], max: i32) -> Option<Vec<SessionId>> {
    let max = usize::try_from(max).unwrap_or(0);
    let surplus = (live.len() + 1).saturating_sub(max);
    let fading: Vec<SessionId> =
        live.iter().filter(|live| live.fading).map(|live| live.session).take(surplus).collect();
    (fading.len() == surplus).then_some(fading)
}

/// Orders nodes by preference: healthy ones before those that nobody has seen yet; among these the less loaded of two
/// random ones first, then the rest by load.
pub(crate) fn choose(nodes: Vec<Candidate>, random: u64) -> Vec<Candidate> {
    let (healthy, unknown): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| node.health_status == NodeHealth::Healthy);
    let mut order = by_load(healthy, random);
    order.extend(by_load(unknown, random));
    order
}

fn by_load(mut nodes: Vec<Candidate>, random: u64) -> Vec<Candidate> {
    let load =
        |node: &Candidate| f64::from(node.active_sessions) / (f64::from(node.max_sessions) * f64::from(node.weight));
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
