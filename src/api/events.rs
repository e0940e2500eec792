//! The event stream and its acknowledgements.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::frame::SessionCode;

/// What happened, on the event stream (docs/09, "Events").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// A user's plan, subscription or quota is another: report their sessions.
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
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EventAck {
    pub epoch: String,
    pub seq: i64,
    /// The process that has acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Uuid>,
}
