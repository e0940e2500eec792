//! Nodes, with their credentials, and what gateways find of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Most access keys in one request to import nodes.
pub const ACCESS_KEYS_MAX: usize = 1000;

/// A node with its credentials; only gateways see it.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = NodeCredentials)]
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

/// `POST /api/v1/outline/heartbeat`: a gateway's probe of a node.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(examples(json!({ "node_id": "01997b5e-7c00-7000-8000-000000000005", "healthy": true, "latency_ms": 12 })))]
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeOpinion {
    pub node_id: Uuid,
    /// The pool's opinion.
    pub health_status: String,
    /// What counts of this gateway's view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<bool>,
}
