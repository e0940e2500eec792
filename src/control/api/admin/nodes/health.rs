use serde::Serialize;
use utoipa::ToSchema;

use crate::control::api::answer::{One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Path};
use crate::control::db::dispatch;
use crate::control::model::id::{GatewayId, NodeId};
use crate::control::model::state::{GatewayStatus, NodeHealth};
use crate::control::model::types::Time;

/// What one gateway holds of a node.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::control::api::admin) struct Opinion {
    /// The gateway's name.
    name: String,
    gateway_node_id: GatewayId,
    healthy: bool,
    latency_ms: Option<i32>,
    checked_at: Time,
    /// The view that counts: it turns after some probes in a row.
    settled: bool,
    /// Probes in a row with this result.
    streak: i32,
    /// Why the last probe failed.
    error: Option<String>,
}

/// What the gateways hold of a node, and how many may use it.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::control::api::admin) struct Opinions {
    health_status: NodeHealth,
    half_close: Option<bool>,
    /// The region's code.
    region: String,
    /// Gateways that may use the node.
    gateways: usize,
    /// Those that are online.
    online: usize,
    items: Vec<Opinion>,
}

impl View for Opinions {}

/// Shows what the gateways hold of a node
#[utoipa::path(get, path = "/nodes/{id}/health", tag = "nodes", operation_id = "get_node_health",
    params(("id" = NodeId, Path)), responses((status = OK, body = Opinions)))]
pub(in crate::control::api::admin) async fn health(
    admin: Admin,
    Path(id): Path<NodeId>,
) -> Result<One<Opinions>, ApiError> {
    let mut conn = admin.read().await?;
    let node = dispatch!(&mut conn, admin::node::get(id))?;
    let region = dispatch!(&mut conn, admin::region::get(node.region_id))?;
    let gateways = dispatch!(&mut conn, health::statuses(node.region_id))?;
    let views = dispatch!(&mut conn, health::views(node.id))?;
    let items = views.into_iter().map(|(view, name)| Opinion {
        name,
        gateway_node_id: view.gateway_node_id,
        healthy: view.healthy,
        latency_ms: view.latency_ms,
        checked_at: view.checked_at,
        settled: view.settled,
        streak: view.streak,
        error: view.error,
    });
    Ok(One(Opinions {
        health_status: node.health_status,
        half_close: node.half_close,
        region: region.code,
        gateways: gateways.len(),
        online: gateways.iter().filter(|status| **status == GatewayStatus::Online).count(),
        items: items.collect(),
    }))
}
