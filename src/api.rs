//! What the gateway and the control plane say to each other (docs/02).

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::frame::lenient::or_default;
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
    /// A session of the device whose place `session_id` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Uuid>,
    /// Nodes the gateway cannot reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What the client is told to quote if it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub support_id: Option<String>,
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
    /// What the session may move; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// What a session may move while the control plane is away and its lease is over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fail_open_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternates: Vec<Uuid>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
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
    /// The term's end.
    #[serde(with = "time::serde::rfc3339")]
    pub valid_until: OffsetDateTime,
    /// That with the plan's grace.
    #[serde(with = "time::serde::rfc3339")]
    pub served_until: OffsetDateTime,
}

/// What the plan allows.
#[derive(Debug, Serialize, Deserialize)]
pub struct LimitsView {
    pub max_sessions: Option<i32>,
    pub rate_limit_mbps: Option<i32>,
    pub traffic_limit_bytes: Option<u64>,
}

/// Traffic lent to a session (docs/02, "Leases").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Bytes in all, up and down, that the session may have moved.
    pub allowed: u64,
    /// Milliseconds from the request until the lease is over.
    pub lasts_ms: u64,
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
    /// The password before, while the node may still want it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_password: Option<String>,
    /// Counts passwords.
    #[serde(default)]
    pub generation: i32,
    /// Streams of older generations are to be moved.
    #[serde(default)]
    pub oldest_generation: i32,
    /// New streams go elsewhere, if there is an elsewhere.
    #[serde(default)]
    pub draining: bool,
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
    /// The device's token: with a fresh one the gateway may open a session, without it only move its own live ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Token>,
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
    /// The lease that the gateway holds: bytes in all. Without it no lease is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<u64>,
    /// The session wants to move more than that now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// How long the client has sent nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_ms: Option<u64>,
    /// Its gateway's process drains: it may give its place to another session of the device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
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
    /// What the session may move; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The plan's rate as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_mbps: Option<i32>,
    /// The period's limit as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_limit_bytes: Option<u64>,
    /// The term's end as it is now.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<OffsetDateTime>,
}

/// A refusal that a gateway decided by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusalNote {
    pub device_id: Uuid,
    pub code: SessionCode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    pub support_id: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
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
    /// Refusals since the last heartbeat.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusalNote>,
    /// How far the gateway's clock is ahead of the control plane's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_offset_ms: Option<i64>,
    /// Of the certificate that clients are shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Validity>,
    /// The process that sends it, of those that act for the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
    /// It knows that no other process acts for the gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// It ends, and is not to be waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    #[serde(with = "time::serde::rfc3339")]
    pub begins: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub ends: OffsetDateTime,
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
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// More than this probe says so: the view counts at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settled: bool,
    /// Whether the node passes the end of one direction on and keeps the other, if that was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_close: Option<bool>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct NodeOpinion {
    pub node_id: Uuid,
    /// The pool's opinion.
    pub health_status: String,
    /// What counts of this gateway's view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<bool>,
}

/// What happened, on the event stream (docs/02, "Events").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The stream begins here: report every session, fetch nodes and keys.
    Snapshot,
    /// A user's sessions end with the code.
    UserStopped,
    /// A device's sessions end with the code.
    DeviceStopped,
    /// One session ends with the code.
    SessionStopped,
    /// A user's plan, subscription or quota is another: report his sessions.
    UserChanged,
    /// Sessions of a plan are to be reported.
    PlanChanged,
    /// Nodes came, went, or have other passwords or states: fetch them.
    NodesChanged,
    /// The gateway itself is to do something else: send a heartbeat.
    GatewayChanged,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl EventKind {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::UserStopped => "user_stopped",
            Self::DeviceStopped => "device_stopped",
            Self::SessionStopped => "session_stopped",
            Self::UserChanged => "user_changed",
            Self::PlanChanged => "plan_changed",
            Self::NodesChanged => "nodes_changed",
            Self::GatewayChanged => "gateway_changed",
            Self::Unknown => "unknown",
        }
    }
}

/// One event of `GET /api/v1/gateway/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The database's epoch; another one makes sequence numbers void.
    pub epoch: String,
    pub seq: i64,
    pub kind: EventKind,
    /// The user, device, session, plan, node or gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Uuid>,
    /// How sessions end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<SessionCode>,
    /// In a snapshot, the gateway's sessions that may go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<Uuid>,
}

/// `POST /api/v1/gateway/events/ack`: everything up to a number has been acted on.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventAck {
    pub epoch: String,
    pub seq: i64,
    /// The process that has acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
}

/// `POST /api/v1/auth/enroll`
#[derive(Debug, Serialize, Deserialize)]
pub struct Enroll {
    pub code: String,
    /// The installation's own id.
    pub device_uuid: String,
    pub platform: String,
    /// What the user calls the device.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    /// A device to revoke for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<Uuid>,
}

/// `POST /api/v1/auth/refresh`
#[derive(Debug, Serialize, Deserialize)]
pub struct Refresh {
    pub refresh_token: String,
    pub device_uuid: String,
}

/// The answer to both.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tokens {
    pub device_id: Uuid,
    pub access_token: String,
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    pub refresh_token: String,
    /// Seconds.
    pub refresh_expires_in: u64,
}

/// `POST /api/v1/gateway/enroll`
#[derive(Debug, Serialize, Deserialize)]
pub struct GatewayEnroll {
    pub token: String,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct GatewayEnrolled {
    pub gateway_id: Uuid,
    pub token: String,
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
    /// With `DEVICE_LIMIT`: the devices of which one may be replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceView>,
}

/// A device as its user is shown it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceView {
    pub id: Uuid,
    pub platform: String,
    pub name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
}

/// One field that will not do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    pub field: String,
    pub code: String,
}
