use std::sync::Arc;

use axum::Json;
use axum::extract::State as Shared;
use serde_json::{Value, json};

use super::admission::node_view;
use crate::api::{GatewayHeartbeat, GatewayOrders, NodeHeartbeat};
use crate::control::State;
use crate::control::db::on;
use crate::control::db::types::{Id, Time};
use crate::control::error::ApiError;
use crate::control::extract::{Body, FromGateway};
use crate::control::models::NodeView;

pub(in crate::control) async fn gateway_heartbeat(
    Shared(state): Shared<Arc<State>>,
    FromGateway(mut gateway): FromGateway,
    Body(request): Body<GatewayHeartbeat>,
) -> Result<Json<GatewayOrders>, ApiError> {
    if request.gateway_id.is_some_and(|id| id != gateway.id.0) {
        return Err(ApiError::forbidden("`gateway_id` is not the gateway that the token belongs to"));
    }
    gateway.version = request.version;
    gateway.sessions = request.sessions.max(0);
    gateway.streams = request.streams.max(0);
    let now = Time::now();
    let mut conn = state.db.get().await?;
    let nodes = on!(&mut conn, health::gateway_alive(&gateway, now))?;
    let home = on!(&mut conn, admin::region::get(gateway.region_id))?;
    let nodes = nodes.iter().filter_map(|(node, region)| node_view(&state, node, region).ok()).collect();
    Ok(Json(GatewayOrders {
        gateway_id: gateway.id.0,
        region: home.code,
        nodes,
        drain: gateway.draining,
        server_time: now.0,
    }))
}

pub(in crate::control) async fn outline_heartbeat(
    Shared(state): Shared<Arc<State>>,
    FromGateway(gateway): FromGateway,
    Body(request): Body<NodeHeartbeat>,
) -> Result<Json<Value>, ApiError> {
    let now = Time::now();
    let view = NodeView {
        outline_node_id: Id(request.node_id),
        gateway_node_id: gateway.id,
        healthy: request.healthy,
        latency_ms: request.latency_ms,
        checked_at: now,
    };
    let since = now.before(state.sessions.node_timeout);
    let health = on!(&mut state.db.get().await?, health::node_seen(&gateway, view, since))?;
    let health = health.ok_or_else(ApiError::not_found)?;
    Ok(Json(json!({ "node_id": request.node_id, "health_status": health })))
}
