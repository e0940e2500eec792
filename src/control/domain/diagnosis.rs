//! What speaks against a device's traffic (docs/02, "Why has this customer no traffic?").

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::control::domain::billing::Quota;
use crate::control::domain::device_limit;
use crate::control::model::id::{GatewayId, NodeId};
use crate::control::model::state::{
    DeviceStatus, GatewayStatus, NodeHealth, NodeState, SubscriptionState, SubscriptionStatus, UserStatus,
};
use crate::control::model::types::Time;
use crate::control::model::{Device, Gateway, OutlineNode, RefusalRow, Session, SubscriptionAndPlan, User};
use crate::frame::SessionCode;

const GIGABYTE: u64 = 1_000_000_000;

/// What the database knows of a device.
#[derive(Debug)]
pub(crate) struct DeviceSnapshot {
    pub device: Device,
    pub user: User,
    pub subscription: Option<SubscriptionAndPlan>,
    /// Codes of the regions that the plan is limited to; none is all.
    pub allowed: Vec<String>,
    pub quota: Option<Quota>,
    /// Active devices of the user that are older than this one.
    pub older_devices: i64,
    /// The newest first.
    pub sessions: Vec<Session>,
    /// Those of the sessions and refusals.
    pub gateways: Vec<Gateway>,
    /// Those of the sessions.
    pub nodes: Vec<OutlineNode>,
    /// Every node.
    pub pool: Vec<Exit>,
    /// The newest first.
    pub refusals: Vec<RefusalRow>,
}

/// A node as far as new sessions are concerned.
#[derive(Debug)]
pub(crate) struct Exit {
    /// The region's code.
    pub region: String,
    pub state: NodeState,
    pub health: NodeHealth,
    pub sessions: i32,
    pub max_sessions: i32,
}

/// One thing that speaks against traffic, and what to do about it.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Finding {
    pub code: String,
    pub text: String,
}

type Findings = Vec<Finding>;

fn add(found: &mut Findings, code: &str, text: impl Into<String>) {
    let finding = Finding { code: code.into(), text: text.into() };
    if !found.contains(&finding) {
        found.push(finding);
    }
}

fn moment(at: Time) -> String {
    format!("{} {:02}:{:02} UTC", at.0.date(), at.0.hour(), at.0.minute())
}

/// With one decimal, rounded down.
fn gigabytes(bytes: u64) -> String {
    format!("{}.{}", bytes / GIGABYTE, bytes % GIGABYTE / (GIGABYTE / 10))
}

impl Exit {
    /// Why it takes no sessions.
    fn obstacle(&self) -> Option<&'static str> {
        if self.state != NodeState::Active {
            return Some(self.state.as_str());
        }
        if self.health.is_bad() {
            return Some(self.health.as_str());
        }
        (self.sessions >= self.max_sessions).then_some("full")
    }
}

impl DeviceSnapshot {
    /// Everything that speaks against traffic at a moment, in the order in which it is checked.
    pub(crate) fn findings(&self, now: Time, clock_off: Duration) -> Vec<Finding> {
        let mut found = Vec::new();
        self.of_owner(&mut found);
        self.of_subscription(&mut found, now);
        self.of_quota(&mut found, now);
        self.of_pool(&mut found);
        self.of_live_sessions(&mut found, now);
        self.of_clocks(&mut found, clock_off);
        self.of_certificates(&mut found, now);
        self.of_refusals(&mut found);
        if found.is_empty() {
            add(&mut found, "OK", "nothing speaks against traffic");
        }
        found
    }

    /// The name of a gateway that a session or a refusal refers to.
    pub(crate) fn gateway_name(&self, id: GatewayId) -> Option<&str> {
        self.gateways.iter().find(|gateway| gateway.id == id).map(|gateway| gateway.name.as_str())
    }

    /// The name of a node that a session refers to.
    pub(crate) fn node_name(&self, id: NodeId) -> Option<&str> {
        self.nodes.iter().find(|node| node.id == id).map(|node| node.name.as_str())
    }

    fn live_sessions(&self, now: Time) -> impl Iterator<Item = &Session> {
        let recent = self.sessions.iter();
        recent.filter(move |session| session.state.is_live() && session.expires_at > now)
    }

    fn of_owner(&self, found: &mut Findings) {
        let since = moment(self.user.updated_at);
        match self.user.status {
            UserStatus::Banned => {
                add(found, "USER_BANNED", format!("the user is banned since {since}: set their status to active"));
            }
            UserStatus::Pending => {
                add(found, "USER_PENDING", format!("the user is pending since {since}: set their status to active"));
            }
            UserStatus::Active => {}
        }
        if self.device.status != DeviceStatus::Active {
            add(found, "DEVICE_BANNED", "the device is revoked: enroll it anew, or set its status to active");
        }
    }

    fn of_subscription(&self, found: &mut Findings, now: Time) {
        let Some(SubscriptionAndPlan { subscription, plan }) = &self.subscription else {
            add(found, "NO_SUBSCRIPTION", "the user has no subscription: create one");
            return;
        };
        match subscription.state(plan, now) {
            SubscriptionState::Cancelled => {
                let at = subscription.cancelled_at.map_or_else(String::new, |at| format!(" since {}", moment(at)));
                add(found, "NO_SUBSCRIPTION", format!("the subscription is cancelled{at}: create another one"));
            }
            SubscriptionState::Pending => {
                let text = format!("the subscription begins {}: wait", moment(subscription.starts_at));
                add(found, "NO_SUBSCRIPTION", text);
            }
            SubscriptionState::Expired if subscription.status == SubscriptionStatus::Expired => {
                add(found, "SUBSCRIPTION_EXPIRED", "the subscription was set to expired: renew it");
            }
            SubscriptionState::Expired => {
                let until = moment(subscription.served_until(plan));
                add(found, "SUBSCRIPTION_EXPIRED", format!("the subscription ended {until}: renew it"));
            }
            SubscriptionState::Active | SubscriptionState::Grace => {}
        }
        if let Some(max) = plan.max_devices.filter(|_| !device_limit::has_room(plan, self.older_devices)) {
            let older = self.older_devices;
            let text = format!("{older} older devices use the plan's {max}: revoke one, or change the plan");
            add(found, "DEVICE_LIMIT", text);
        }
    }

    fn of_quota(&self, found: &mut Findings, now: Time) {
        let Some(quota) = &self.quota else { return };
        let (Some(limit), Some(remaining)) = (quota.limit_bytes, quota.remaining_bytes) else { return };
        let until = quota.period_end.map_or_else(|| "the end of the term".into(), moment);
        if remaining == 0 {
            let (used, of) = (gigabytes(quota.used_bytes), gigabytes(limit.saturating_add(quota.bonus_bytes)));
            let text = format!("{used} of {of} GB used until {until}: top up, change the plan, or wait");
            add(found, "LIMIT_REACHED", text);
        } else if quota.leased_bytes >= remaining && self.live_sessions(now).next().is_none() {
            let left = gigabytes(remaining);
            let text =
                format!("the last {left} GB until {until} are lent to other devices' sessions: top up, or end one");
            add(found, "LIMIT_REACHED", text);
        }
    }

    fn of_pool(&self, found: &mut Findings) {
        let mut regions: BTreeMap<&str, Vec<Option<&str>>> = BTreeMap::new();
        for exit in &self.pool {
            if self.allowed.is_empty() || self.allowed.contains(&exit.region) {
                regions.entry(&exit.region).or_default().push(exit.obstacle());
            }
        }
        if regions.is_empty() {
            add(found, "NO_NODE_AVAILABLE", "no region that the plan allows has a node: add one");
        }
        for (region, exits) in regions {
            let obstacles: Vec<&str> = exits.iter().copied().flatten().collect();
            if obstacles.len() == exits.len() {
                let kinds: Vec<&str> = obstacles.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
                let text = format!("all nodes of region {region} are {}: see the nodes", kinds.join(" or "));
                add(found, "NO_NODE_AVAILABLE", text);
            }
        }
    }

    fn of_live_sessions(&self, found: &mut Findings, now: Time) {
        for session in self.live_sessions(now) {
            let gateway = self.gateways.iter().find(|gateway| gateway.id == session.gateway_node_id);
            if let Some(gateway) = gateway.filter(|gateway| gateway.status != GatewayStatus::Online) {
                let seen = gateway.last_heartbeat_at.map_or_else(|| "never".into(), moment);
                let (name, status) = (&gateway.name, &gateway.status);
                let text =
                    format!("gateway {name} of a live session is {status}, last heartbeat {seen}: look after it");
                add(found, "GATEWAY_OFFLINE", text);
            }
            let node = self.nodes.iter().find(|node| session.outline_node_id == Some(node.id));
            if let Some(node) = node.filter(|node| node.health_status.is_bad()) {
                let (name, health) = (&node.name, &node.health_status);
                add(found, "NODE_DOWN", format!("node {name} of a live session is {health}: look after it"));
            }
            if session.silent {
                let text = "the client of a live session sends nothing: its network or the app stands still";
                add(found, "CLIENT_SILENT", text);
            }
        }
    }

    /// Gateways whose clocks are off by so much or more.
    fn of_clocks(&self, found: &mut Findings, off: Duration) {
        for gateway in &self.gateways {
            let Some(offset) = gateway.clock_offset_ms else { continue };
            if Duration::from_millis(offset.unsigned_abs()) >= off {
                let direction = if offset < 0 { "behind" } else { "ahead of" };
                let (name, seconds) = (&gateway.name, offset.unsigned_abs() / 1000);
                let text = format!(
                    "the clock of gateway {name} is {seconds} s {direction} the control plane's: synchronize both by NTP"
                );
                add(found, "CLOCK_OFFSET", text);
            }
        }
    }

    /// Gateways that no client accepts.
    fn of_certificates(&self, found: &mut Findings, now: Time) {
        for gateway in &self.gateways {
            let (Some(begins), Some(ends)) = (gateway.certificate_begins, gateway.certificate_ends) else { continue };
            let name = &gateway.name;
            if ends < now {
                let text = format!("the certificate of gateway {name} has expired {}: renew it", moment(ends));
                add(found, "CERTIFICATE_EXPIRED", text);
            } else if now < begins {
                let text = format!(
                    "the certificate of gateway {name} is valid only from {}: replace it, or look at its clock",
                    moment(begins)
                );
                add(found, "CERTIFICATE_NOT_YET_VALID", text);
            }
        }
    }

    /// What only the gateway could see: it counts if nothing went well since.
    fn of_refusals(&self, found: &mut Findings) {
        let Some(refusal) = self.refusals.first() else { return };
        if self.sessions.first().is_some_and(|session| session.started_at > refusal.created_at) {
            return;
        }
        let Some(advice) = SessionCode::from_name(&refusal.code).and_then(advice) else { return };
        let (at, id) = (moment(refusal.created_at), &refusal.support_id);
        let client = refusal.client_version.as_deref().unwrap_or("unknown");
        add(found, &refusal.code, format!("refused {at} (client {client}, support id {id}): {advice}"));
    }
}

/// What to do about a refusal that the present state does not explain.
fn advice(code: SessionCode) -> Option<&'static str> {
    match code {
        SessionCode::ProtocolError | SessionCode::Internal => Some("look for the support id in the gateway's log"),
        SessionCode::UnsupportedVersion | SessionCode::UpgradeRequired => Some("update the app"),
        SessionCode::InvalidToken => Some("the app has no token of this device: enroll it anew"),
        SessionCode::TokenExpired => {
            Some("the app has not refreshed its token: look at its clock and network, or enroll it anew")
        }
        SessionCode::TooManySessions => Some("other sessions of the device were live: end one, or change the plan"),
        SessionCode::UnknownRegion => {
            Some("the plan or the gateway does not have the region: choose another, or change the plan")
        }
        SessionCode::SessionKilled => Some("an administrator ended the session: connect again"),
        SessionCode::Overloaded | SessionCode::GoingAway => Some("the gateway took no sessions then: connect again"),
        SessionCode::ControlUnavailable => Some("the gateway could not reach the control plane: connect again"),
        SessionCode::DeviceBanned
        | SessionCode::UserBanned
        | SessionCode::UserPending
        | SessionCode::NoSubscription
        | SessionCode::SubscriptionExpired
        | SessionCode::LimitReached
        | SessionCode::DeviceLimit
        | SessionCode::NoNodeAvailable => None,
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!(gigabytes(100_000_000_000), "100.0");
        assert_eq!(gigabytes(1_990_000_000), "1.9");
        assert_eq!(moment(Time(datetime!(2026-12-01 0:05 UTC))), "2026-12-01 00:05 UTC");
    }

    #[test]
    fn a_node_takes_sessions_or_says_why_not() {
        let exit = |state: NodeState, health: NodeHealth, sessions: i32| Exit {
            region: "eu-1".into(),
            state,
            health,
            sessions,
            max_sessions: 2,
        };
        assert_eq!(exit(NodeState::Active, NodeHealth::Unknown, 1).obstacle(), None);
        assert_eq!(exit(NodeState::Active, NodeHealth::Healthy, 2).obstacle(), Some("full"));
        assert_eq!(exit(NodeState::Active, NodeHealth::Offline, 0).obstacle(), Some("offline"));
        assert_eq!(exit(NodeState::Draining, NodeHealth::Healthy, 0).obstacle(), Some("draining"));
    }
}
