//! A gateway's heartbeat, and what the control plane wants of it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::nodes::Node;
use crate::frame::SessionCode;

/// A refusal that a gateway decided by itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Validity {
    #[serde(with = "time::serde::rfc3339")]
    pub begins: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub ends: OffsetDateTime,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
