//! What the gateway and the control plane say to each other (docs/02).

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::frame::{SessionCode, Token};

/// `POST /api/v1/auth/validate-device`
#[derive(Debug, Serialize, Deserialize)]
pub struct ValidateDevice {
    pub device_id: Uuid,
    pub access_token: Token,
    pub region: String,
    /// Also reserve a node, for `session_id`.
    #[serde(default)]
    pub assign: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Uuid>,
    /// Nodes the gateway cannot reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// Its answer; `ok: false` comes with a code.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Validated {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<SessionCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<SubscriptionView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsView>,
    /// Bytes left in this period; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternates: Vec<Uuid>,
}

/// The user of a device.
#[derive(Debug, Serialize, Deserialize)]
pub struct UserView {
    pub id: Uuid,
    pub status: String,
}

/// The subscription that pays for a session.
#[derive(Debug, Serialize, Deserialize)]
pub struct SubscriptionView {
    pub id: Uuid,
    pub plan: String,
    #[serde(with = "time::serde::rfc3339")]
    pub valid_until: OffsetDateTime,
}

/// What the plan allows.
#[derive(Debug, Serialize, Deserialize)]
pub struct LimitsView {
    pub max_sessions: Option<i32>,
    pub rate_limit_mbps: Option<i32>,
    pub traffic_limit_bytes: Option<u64>,
}

/// A node with its credentials; only gateways see it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Node {
    pub id: Uuid,
    pub region: String,
    pub internal_ip: String,
    pub port: u16,
    pub method: String,
    pub password: String,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id).field("region", &self.region).finish_non_exhaustive()
    }
}

/// `POST /api/v1/nodes/assign-outline`
#[derive(Debug, Serialize, Deserialize)]
pub struct AssignOutline {
    pub region: String,
    pub user_id: Uuid,
    pub device_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Uuid>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Assigned {
    pub session_id: Uuid,
    #[serde(flatten)]
    pub node: Node,
    pub alternates: Vec<Uuid>,
}

/// The counters of one session; cumulative, so a report may be repeated, reordered or late.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UsageReport {
    /// Must be the gateway whose token is used, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<Uuid>,
    pub device_id: Uuid,
    pub session_id: Uuid,
    pub bytes_up: u64,
    pub bytes_down: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// Present in the last report of a session.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<OffsetDateTime>,
    /// Lets the control plane accept a session it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Token>,
}

/// `POST /api/v1/usage/report`: one report or a batch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UsageReports {
    Batch { reports: Vec<UsageReport> },
    One(Box<UsageReport>),
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct UsageVerdicts {
    pub sessions: Vec<Verdict>,
}

/// Whether a session may go on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verdict {
    pub session_id: Uuid,
    #[serde(rename = "continue")]
    pub go_on: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Bytes left to the user in this period; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_bytes: Option<u64>,
}

/// `POST /api/v1/gateway/heartbeat`
#[derive(Debug, Serialize, Deserialize)]
pub struct GatewayHeartbeat {
    pub gateway_id: Option<Uuid>,
    #[serde(default)]
    pub sessions: i64,
    #[serde(default)]
    pub streams: i64,
    #[serde(default)]
    pub version: String,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct GatewayOrders {
    pub gateway_id: Uuid,
    pub region: String,
    /// The nodes the gateway may use.
    pub nodes: Vec<Node>,
    /// Whether the gateway should take no more sessions.
    pub drain: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub server_time: OffsetDateTime,
}

/// `POST /api/v1/outline/heartbeat`: a gateway's probe of a node.
#[derive(Debug, Serialize, Deserialize)]
pub struct NodeHeartbeat {
    pub node_id: Uuid,
    pub healthy: bool,
    #[serde(default)]
    pub latency_ms: Option<i32>,
}

/// An error of the API, RFC 9457.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub request_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// One field that will not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    pub field: String,
    pub code: String,
}
