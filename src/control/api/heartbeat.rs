use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::views::node_view;
use crate::api::{GatewayHeartbeat, GatewayOrders, NodeHeartbeat, NodeOpinion, kept_version};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromGateway, Relayed};
use crate::control::db::dispatch;
use crate::control::model::id::{InstanceId, NodeId};
use crate::control::model::types::Time;
use crate::control::model::{GatewayInstance, InstanceBeat, NodeReport, NodeView};
use crate::control::runtime::ControlState;
use crate::frame::Version;

const REASON_MAX: usize = 200;

/// Refuses a gateway whose version is below `pool.min_gateway_version`, or unknown if there is one.
pub(super) fn new_enough(state: &ControlState, version: &str) -> Result<(), ApiError> {
    let Some(oldest) = Version::parse(&state.pool.min_gateway_version) else { return Ok(()) };
    if Version::parse(version).is_some_and(|version| version >= oldest) {
        return Ok(());
    }
    let detail = format!("gateways must have version {} or newer", state.pool.min_gateway_version);
    Err(ApiError {
        status: StatusCode::UPGRADE_REQUIRED,
        code: "UPGRADE_REQUIRED".into(),
        ..ApiError::bad_request(detail)
    })
}

/// Takes a gateway's heartbeat
///
/// The answer has the nodes that it may use, with their credentials.
#[utoipa::path(post, path = "/gateway/heartbeat", tag = "gateways' calls", operation_id = "gateway_heartbeat",
    request_body = GatewayHeartbeat, responses((status = OK, body = GatewayOrders)))]
pub(in crate::control) async fn gateway_heartbeat(
    State(state): State<Arc<ControlState>>,
    FromGateway(known): FromGateway,
    Relayed(request): Relayed<GatewayHeartbeat>,
) -> Result<Json<GatewayOrders>, ApiError> {
    if request.gateway_id.is_some_and(|id| id != known.gateway.id.uuid()) {
        return Err(ApiError::forbidden("`gateway_id` is not the gateway that the token belongs to"));
    }
    let mut conn = state.db.get().await?;
    let mut gateway = dispatch!(&mut conn, admin::gateway::get(known.gateway.id))?;
    gateway.version = kept_version(&request.version);
    gateway.sessions = request.sessions.max(0);
    gateway.streams = request.streams.max(0);
    gateway.clock_offset_ms = request.clock_offset_ms;
    gateway.certificate_begins = request.certificate.map(|valid| Time(valid.begins));
    gateway.certificate_ends = request.certificate.map(|valid| Time(valid.ends));
    let now = state.now();
    if let Err(outdated) = new_enough(&state, &gateway.version) {
        dispatch!(&mut conn, health::gateway_outdated(gateway.id, &gateway.version))?;
        state.gateways.forget();
        return Err(outdated);
    }
    let beat = request.instance.map(|instance| InstanceBeat {
        instance: GatewayInstance {
            gateway_node_id: gateway.id,
            id: InstanceId::from(instance),
            version: gateway.version.clone(),
            sessions: gateway.sessions,
            streams: gateway.streams,
            acked_seq: 0,
            started_at: now,
            last_heartbeat_at: now,
        },
        alone: request.alone,
        leaving: request.leaving,
    });
    let nodes = dispatch!(&mut conn, health::gateway_alive(&gateway, beat.as_ref(), now))?;
    if gateway.version != known.gateway.version {
        state.gateways.forget();
    }
    dispatch!(&mut conn, refusals::note(gateway.id, request.refusals))?;
    let home = dispatch!(&mut conn, admin::region::get(gateway.region_id))?;
    let nodes = nodes.iter().filter_map(|(node, region)| node_view(&state, node, region).ok()).collect();
    Ok(Json(GatewayOrders {
        gateway_id: gateway.id.uuid(),
        region: home.code,
        nodes,
        drain: gateway.draining,
        server_time: now.0,
    }))
}

/// Takes a gateway's probe of a node
#[utoipa::path(post, path = "/outline/heartbeat", tag = "gateways' calls", operation_id = "node_heartbeat",
    request_body = NodeHeartbeat, responses((status = OK, body = NodeOpinion)))]
pub(in crate::control) async fn outline_heartbeat(
    State(state): State<Arc<ControlState>>,
    FromGateway(known): FromGateway,
    Body(request): Body<NodeHeartbeat>,
) -> Result<Json<NodeOpinion>, ApiError> {
    let now = state.now();
    let view = NodeView {
        outline_node_id: NodeId::from(request.node_id),
        gateway_node_id: known.gateway.id,
        healthy: request.healthy,
        latency_ms: request.latency_ms,
        checked_at: now,
        settled: request.healthy,
        streak: if request.settled { state.pool.fail_after.max(state.pool.recover_after) } else { 1 },
        error: request.error.map(|reason| reason.chars().take(REASON_MAX).collect()),
    };
    let since = now.before(state.sessions.node_timeout);
    let report = NodeReport { view, half_close: request.half_close };
    let verdict = dispatch!(&mut state.db.get().await?, health::node_seen(&known.gateway, report, &state.pool, since))?;
    let verdict = verdict.ok_or_else(ApiError::not_found)?;
    if verdict.changed {
        state.nodes.forget();
    }
    Ok(Json(NodeOpinion {
        node_id: request.node_id,
        health_status: verdict.health_status.to_string(),
        settled: Some(verdict.settled),
    }))
}
