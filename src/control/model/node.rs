use diesel::prelude::*;

use super::state::{NodeHealth, NodeState, NodeStatus};
use crate::control::model::id::{GatewayId, NodeId, RegionId};
use crate::control::model::schema::{node_health, outline_nodes};
use crate::control::model::types::Time;

/// A Shadowsocks server; its password is sealed and never answered.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = outline_nodes)]
pub struct OutlineNode {
    pub id: NodeId,
    pub region_id: RegionId,
    pub name: String,
    pub internal_ip: String,
    pub ss_port: i32,
    pub ss_method: String,
    pub ss_password: String,
    /// The password before, sealed, while both are good.
    pub ss_password_old: Option<String>,
    /// Counts passwords.
    pub generation: i32,
    /// Streams of older generations are moved.
    pub oldest_generation: i32,
    pub max_sessions: i32,
    pub active_sessions: i32,
    pub weight: i32,
    pub state: NodeState,
    pub health_status: NodeHealth,
    /// Whether it keeps half closes, if a gateway has found out.
    pub half_close: Option<bool>,
    pub last_heartbeat_at: Option<Time>,
    pub created_at: Time,
    /// Counts changes of what administrators may change.
    pub revision: i32,
}

impl OutlineNode {
    /// What it is: what an administrator wants of it, or that nobody reaches it.
    pub(crate) fn status(&self) -> NodeStatus {
        match self.state {
            NodeState::Active if self.health_status.is_bad() => NodeStatus::Offline,
            NodeState::Active => NodeStatus::Active,
            NodeState::Draining => NodeStatus::Draining,
            NodeState::Maintenance => NodeStatus::Maintenance,
        }
    }
}

/// What decides between nodes.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = outline_nodes)]
pub(crate) struct Candidate {
    pub id: NodeId,
    pub max_sessions: i32,
    pub active_sessions: i32,
    pub weight: i32,
    pub health_status: NodeHealth,
}

/// What an administrator may change of a node.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = outline_nodes)]
#[expect(clippy::option_option, reason = "absent leaves a column alone, null clears it")]
pub struct NodeChange {
    pub region_id: Option<RegionId>,
    pub name: Option<String>,
    pub internal_ip: Option<String>,
    pub ss_port: Option<i32>,
    pub ss_method: Option<String>,
    pub ss_password: Option<String>,
    pub ss_password_old: Option<Option<String>>,
    pub generation: Option<i32>,
    pub oldest_generation: Option<i32>,
    pub max_sessions: Option<i32>,
    pub weight: Option<i32>,
    pub state: Option<NodeState>,
}

/// A gateway's view of a node.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = node_health, treat_none_as_null = true)]
pub struct NodeView {
    pub outline_node_id: NodeId,
    pub gateway_node_id: GatewayId,
    pub healthy: bool,
    pub latency_ms: Option<i32>,
    pub checked_at: Time,
    /// The view that counts: it turns after some probes in a row.
    pub settled: bool,
    /// Probes in a row with this result.
    pub streak: i32,
    /// Why the last probe failed.
    pub error: Option<String>,
}

/// What a gateway reports of a node; a `streak` above one counts like so many probes.
#[derive(Clone, Debug)]
pub(crate) struct NodeReport {
    pub view: NodeView,
    /// Whether the node keeps half closes, if that was found out.
    pub half_close: Option<bool>,
}

/// What became of a report.
#[derive(Clone, Debug)]
pub(crate) struct NodeVerdict {
    /// The pool's opinion.
    pub health_status: NodeHealth,
    pub changed: bool,
    /// What counts of the gateway's view.
    pub settled: bool,
}
