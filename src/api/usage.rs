//! What sessions have moved, and what more they may move.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::frame::Token;

/// Traffic lent to a session (docs/02, "Leases").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// Bytes in all, up and down, that the session may have moved.
    pub allowed: u64,
    /// Milliseconds from the request until the lease is over.
    pub lasts_ms: u64,
}

/// What a session that moves on as it did moves until a lease is renewed, in terms of what it moved since its last report.
const DEMAND: u64 = 4;

impl Lease {
    /// Bytes that a session is lent, and keeps, by what it moved since its last report.
    pub fn demand(moved: u64) -> u64 {
        moved.saturating_mul(DEMAND)
    }
}

/// The counters of one session; cumulative, so a report may be repeated, reordered or late.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
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
    #[schema(value_type = Option<String>)]
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(examples(json!({
    "reports": [{
        "device_id": "01997b5e-7c00-7000-8000-000000000002", "session_id": "01997b5e-7c00-7000-8000-000000000003",
        "bytes_up": 1200, "bytes_down": 34000, "started_at": "2026-11-01T00:00:00Z"
    }]
})))]
pub enum UsageReports {
    Batch { reports: Vec<UsageReport> },
    One(Box<UsageReport>),
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UsageVerdicts {
    pub sessions: Vec<Verdict>,
}

/// Whether a session may go on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
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
