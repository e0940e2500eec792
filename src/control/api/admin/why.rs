use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Listed;
use crate::base32;
use crate::control::api::error::ApiError;
use crate::control::api::extract::{FromAdmin, Query};
use crate::control::db::dispatch;
use crate::control::domain::billing::{PlanView, SubscriptionView};
use crate::control::domain::diagnosis::DeviceSnapshot;
use crate::control::model::id::DeviceId;
use crate::control::model::types::Time;
use crate::control::model::{Gateway, OutlineNode, RefusalRow, Session};
use crate::control::runtime::ControlState;

const REFUSALS: i64 = 100;

/// Why a device has no traffic.
pub(super) async fn device(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<DeviceId>,
) -> Result<Json<Value>, ApiError> {
    let now = state.now();
    let known = dispatch!(&mut state.db.read().await?, refusals::device_snapshot(id, &state.rules.calendar, now))?;
    Ok(Json(view(known, now, state.clock_warn_after)))
}

fn view(known: DeviceSnapshot, now: Time, clock_off: Duration) -> Value {
    let findings = known.findings(now, clock_off);
    let sessions: Vec<Value> = known.sessions.iter().map(|row| session(&known, row)).collect();
    let refusals: Vec<Value> = known.refusals.iter().map(|row| refusal(&known, row)).collect();
    let gateways: Vec<Value> = known.gateways.iter().map(gateway).collect();
    let nodes: Vec<Value> = known.nodes.iter().map(node).collect();
    let (subscription, plan) = match known.subscription {
        Some((subscription, plan)) => {
            let standing = SubscriptionView::at(subscription, &plan, now);
            (Some(standing), Some(PlanView { plan, regions: known.allowed }))
        }
        None => (None, None),
    };
    json!({
        "findings": findings,
        "device": known.device,
        "user": known.user,
        "subscription": subscription,
        "plan": plan,
        "quota": known.quota,
        "sessions": sessions,
        "gateways": gateways,
        "nodes": nodes,
        "refusals": refusals,
    })
}

fn session(known: &DeviceSnapshot, row: &Session) -> Value {
    json!({
        "id": row.id,
        "state": row.state,
        "started_at": row.started_at,
        "last_report_at": row.last_report_at,
        "ended_at": row.ended_at,
        "gateway": known.gateway_name(row.gateway_node_id),
        "node": row.outline_node_id.and_then(|id| known.node_name(id)),
        "silent": row.silent,
        "bytes_up": row.bytes_up,
        "bytes_down": row.bytes_down,
    })
}

fn gateway(row: &Gateway) -> Value {
    json!({
        "name": row.name,
        "status": row.status,
        "last_heartbeat_at": row.last_heartbeat_at,
        "version": row.version,
        "clock_offset_ms": row.clock_offset_ms,
        "certificate_begins": row.certificate_begins,
        "certificate_ends": row.certificate_ends,
    })
}

fn node(row: &OutlineNode) -> Value {
    json!({ "name": row.name, "status": row.state, "health_status": row.health_status })
}

fn refusal(known: &DeviceSnapshot, row: &RefusalRow) -> Value {
    json!({
        "time": row.created_at,
        "code": row.code,
        "client_version": row.client_version,
        "support_id": row.support_id,
        "gateway": row.gateway_node_id.and_then(|id| known.gateway_name(id)),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BySupportId {
    support_id: String,
}

/// Whom a client's support id means.
pub(super) async fn refusals(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(asked): Query<BySupportId>,
) -> Result<Json<Listed>, ApiError> {
    let support_id = canonical(&asked.support_id);
    let rows = dispatch!(&mut state.db.read().await?, refusals::by_support_id(&support_id, REFUSALS))?;
    let items = rows.iter().map(|row| {
        json!({
            "device_id": row.device_id,
            "gateway_id": row.gateway_node_id,
            "time": row.created_at,
            "code": row.code,
            "client_version": row.client_version,
            "support_id": row.support_id,
        })
    });
    Ok(Json(Listed { items: items.collect(), next: None }))
}

/// A support id as it is stored, however somebody has read it out (Crockford's base 32).
fn canonical(text: &str) -> String {
    let digits: String = text.chars().filter_map(base32::read).take(8).collect();
    base32::grouped(&digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn support_ids_are_read_as_people_write_them() {
        for written in ["7KQ2-M9XD", "7kq2m9xd", " 7kq2 m9xd "] {
            assert_eq!(canonical(written), "7KQ2-M9XD");
        }
        assert_eq!(canonical("oil"), "011");
    }
}
