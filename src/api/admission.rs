//! Whether a device may have a session, and through which node.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::nodes::Node;
use super::usage::Lease;
use crate::frame::{SessionCode, Token};

/// `POST /api/v1/auth/validate-device`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ValidateDevice {
    pub device_id: Uuid,
    #[schema(value_type = String)]
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
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SessionUser)]
pub struct UserView {
    pub id: Uuid,
    pub status: String,
}

/// The subscription that pays for a session.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SessionSubscription)]
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = SessionLimits)]
pub struct LimitsView {
    pub max_sessions: Option<i32>,
    pub rate_limit_mbps: Option<i32>,
    pub traffic_limit_bytes: Option<u64>,
}

/// `POST /api/v1/nodes/assign-outline`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AssignOutline {
    pub region: String,
    pub user_id: Uuid,
    pub device_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<Uuid>,
    /// The device's token: with a fresh one the gateway may open a session, without it only move its own live ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub access_token: Option<Token>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Uuid>,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Assigned {
    pub session_id: Uuid,
    #[serde(flatten)]
    pub node: Node,
    pub alternates: Vec<Uuid>,
}
