use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Value, json};

use crate::control::api::error::ApiError;
use crate::control::api::extract::FromAdmin;
use crate::control::db::dispatch;
use crate::control::model::NodeView;
use crate::control::model::id::NodeId;
use crate::control::model::state::GatewayStatus;
use crate::control::runtime::ControlState;

/// A gateway's view with its name.
#[derive(Serialize)]
struct LastSeen {
    name: String,
    #[serde(flatten)]
    view: NodeView,
}

/// What the gateways hold of a node, and how many may use it.
pub(in crate::control::api::admin) async fn health(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<NodeId>,
) -> Result<Json<Value>, ApiError> {
    let mut conn = state.db.read().await?;
    let node = dispatch!(&mut conn, admin::node::get(id))?;
    let region = dispatch!(&mut conn, admin::region::get(node.region_id))?;
    let gateways = dispatch!(&mut conn, health::statuses(node.region_id))?;
    let views = dispatch!(&mut conn, health::views(node.id))?;
    let views: Vec<LastSeen> = views.into_iter().map(|(view, name)| LastSeen { name, view }).collect();
    Ok(Json(json!({
        "health_status": node.health_status,
        "half_close": node.half_close,
        "region": region.code,
        "gateways": gateways.len(),
        "online": gateways.iter().filter(|status| **status == GatewayStatus::Online).count(),
        "items": serde_json::to_value(views).map_err(ApiError::internal)?,
        "next": null,
    })))
}
