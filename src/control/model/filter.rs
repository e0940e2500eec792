use super::id::{DeviceId, GatewayId, NodeId, PlanId, RegionId, UserId};
use super::state::{
    DeviceStatus, EndpointState, GatewayStatus, IdentifierKind, NodeStatus, SessionState, SubscriptionState, UserStatus,
};
use super::types::Time;

/// Which users.
#[derive(Clone, Debug, Default)]
pub(crate) struct UserFilter {
    /// What the user may be known by, as each kind writes it.
    pub identifiers: Option<Vec<(IdentifierKind, String)>>,
    /// What the identifier begins with.
    pub prefix: Option<String>,
    pub kind: Option<IdentifierKind>,
    pub status: Option<UserStatus>,
}

/// Which devices.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceFilter {
    pub user: Option<UserId>,
    pub status: Option<DeviceStatus>,
}

/// Which activation codes.
#[derive(Clone, Debug, Default)]
pub(crate) struct CodeFilter {
    pub user: Option<UserId>,
}

/// Which subscriptions.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionFilter {
    pub user: Option<UserId>,
    pub plan: Option<PlanId>,
    /// What it is at `now`.
    pub state: Option<SubscriptionState>,
    pub ends_after: Option<Time>,
    pub ends_before: Option<Time>,
    pub now: Time,
}

/// Which endpoints.
#[derive(Clone, Debug, Default)]
pub(crate) struct EndpointFilter {
    pub gateway: Option<GatewayId>,
    pub state: Option<EndpointState>,
}

/// Which nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeFilter {
    pub region: Option<RegionId>,
    pub status: Option<NodeStatus>,
}

/// Which gateways.
#[derive(Clone, Debug, Default)]
pub(crate) struct GatewayFilter {
    pub region: Option<RegionId>,
    pub status: Option<GatewayStatus>,
    pub draining: Option<bool>,
}

/// Which sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionFilter {
    pub user: Option<UserId>,
    pub device: Option<DeviceId>,
    pub gateway: Option<GatewayId>,
    pub node: Option<NodeId>,
    pub state: Option<SessionState>,
    pub started_after: Option<Time>,
    pub started_before: Option<Time>,
}
