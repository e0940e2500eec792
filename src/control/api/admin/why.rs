use std::time::Duration;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::devices::DeviceView;
use super::plans::PlanView;
use super::subscriptions::SubscriptionView;
use super::users::UserView;
use crate::base32;
use crate::control::api::answer::{One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Path, Query};
use crate::control::api::page::Page;
use crate::control::db::dispatch;
use crate::control::domain::billing::Quota;
use crate::control::domain::diagnosis::{DeviceSnapshot, Finding};
use crate::control::model::id::{DeviceId, GatewayId, SessionId};
use crate::control::model::state::{GatewayStatus, NodeHealth, NodeState, SessionState};
use crate::control::model::types::Time;
use crate::control::model::{Gateway, OutlineNode, RefusalRow, Session};

const REFUSALS: i64 = 100;

/// A session that bears on a device's traffic.
#[derive(Debug, Serialize, ToSchema)]
struct WhySession {
    id: SessionId,
    state: SessionState,
    started_at: Time,
    last_report_at: Option<Time>,
    ended_at: Option<Time>,
    /// The gateway's name.
    gateway: Option<String>,
    /// The node's name.
    node: Option<String>,
    silent: bool,
    bytes_up: i64,
    bytes_down: i64,
}

/// A gateway that bears on a device's traffic.
#[derive(Debug, Serialize, ToSchema)]
struct WhyGateway {
    name: String,
    status: GatewayStatus,
    last_heartbeat_at: Option<Time>,
    version: String,
    clock_offset_ms: Option<i64>,
    certificate_begins: Option<Time>,
    certificate_ends: Option<Time>,
}

/// A node that bears on a device's traffic.
#[derive(Debug, Serialize, ToSchema)]
struct WhyNode {
    name: String,
    status: NodeState,
    health_status: NodeHealth,
}

/// A session that was refused to the device.
#[derive(Debug, Serialize, ToSchema)]
struct WhyRefusal {
    time: Time,
    code: String,
    client_version: Option<String>,
    support_id: String,
    /// The gateway's name.
    gateway: Option<String>,
}

/// What speaks against a device's traffic, and what that was read from.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Diagnosis {
    /// What to look at, the gravest first; `OK` alone if nothing speaks against traffic.
    findings: Vec<Finding>,
    device: DeviceView,
    user: UserView,
    subscription: Option<SubscriptionView>,
    plan: Option<PlanView>,
    quota: Option<Quota>,
    /// The newest first.
    sessions: Vec<WhySession>,
    gateways: Vec<WhyGateway>,
    nodes: Vec<WhyNode>,
    /// The newest first.
    refusals: Vec<WhyRefusal>,
}

impl View for Diagnosis {}

/// Says why a device has no traffic
#[utoipa::path(get, path = "/devices/{id}/why", tag = "devices", operation_id = "diagnose_device",
    params(("id" = DeviceId, Path)), responses((status = OK, body = Diagnosis)))]
pub(super) async fn device(admin: Admin, Path(id): Path<DeviceId>) -> Result<One<Diagnosis>, ApiError> {
    let calendar = &admin.state.rules.calendar;
    let known = dispatch!(&mut admin.read().await?, refusals::device_snapshot(id, calendar, admin.now))?;
    Ok(One(view(known, admin.now, admin.state.clock_warn_after)))
}

fn view(known: DeviceSnapshot, now: Time, clock_off: Duration) -> Diagnosis {
    let findings = known.findings(now, clock_off);
    let sessions = known.sessions.iter().map(|row| session(&known, row)).collect();
    let refusals = known.refusals.iter().map(|row| refusal(&known, row)).collect();
    let (subscription, plan) = match known.subscription {
        Some(held) => {
            let shown = SubscriptionView::at(held.subscription, &held.plan, now);
            (Some(shown), Some(PlanView::new(held.plan, known.allowed)))
        }
        None => (None, None),
    };
    Diagnosis {
        findings,
        device: known.device.into(),
        user: known.user.into(),
        subscription,
        plan,
        quota: known.quota,
        sessions,
        gateways: known.gateways.into_iter().map(gateway).collect(),
        nodes: known.nodes.into_iter().map(node).collect(),
        refusals,
    }
}

fn session(known: &DeviceSnapshot, row: &Session) -> WhySession {
    WhySession {
        id: row.id,
        state: row.state,
        started_at: row.started_at,
        last_report_at: row.last_report_at,
        ended_at: row.ended_at,
        gateway: known.gateway_name(row.gateway_node_id).map(Into::into),
        node: row.outline_node_id.and_then(|id| known.node_name(id)).map(Into::into),
        silent: row.silent,
        bytes_up: row.bytes_up,
        bytes_down: row.bytes_down,
    }
}

fn gateway(row: Gateway) -> WhyGateway {
    WhyGateway {
        name: row.name,
        status: row.status,
        last_heartbeat_at: row.last_heartbeat_at,
        version: row.version,
        clock_offset_ms: row.clock_offset_ms,
        certificate_begins: row.certificate_begins,
        certificate_ends: row.certificate_ends,
    }
}

fn node(row: OutlineNode) -> WhyNode {
    WhyNode { name: row.name, status: row.state, health_status: row.health_status }
}

fn refusal(known: &DeviceSnapshot, row: &RefusalRow) -> WhyRefusal {
    WhyRefusal {
        time: row.created_at,
        code: row.code.clone(),
        client_version: row.client_version.clone(),
        support_id: row.support_id.clone(),
        gateway: row.gateway_node_id.and_then(|id| known.gateway_name(id)).map(Into::into),
    }
}

/// A session that was refused.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Refusal)]
pub(super) struct RefusalView {
    device_id: DeviceId,
    gateway_id: Option<GatewayId>,
    time: Time,
    #[schema(examples("NO_SUBSCRIPTION"))]
    code: String,
    client_version: Option<String>,
    #[schema(examples("7KQ2-M9XD"))]
    support_id: String,
}

impl From<RefusalRow> for RefusalView {
    fn from(row: RefusalRow) -> Self {
        Self {
            device_id: row.device_id,
            gateway_id: row.gateway_node_id,
            time: row.created_at,
            code: row.code,
            client_version: row.client_version,
            support_id: row.support_id,
        }
    }
}

/// What a client was told to quote.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BySupportId {
    /// However somebody has read it out.
    #[param(example = "7KQ2-M9XD")]
    support_id: String,
}

/// Says whom a client's support id means
#[utoipa::path(get, path = "/refusals", tag = "devices", operation_id = "list_refusals", params(BySupportId),
    responses((status = OK, body = Page<RefusalView>)))]
pub(super) async fn refusals(
    admin: Admin,
    Query(asked): Query<BySupportId>,
) -> Result<Json<Page<RefusalView>>, ApiError> {
    let support_id = canonical(&asked.support_id);
    let rows = dispatch!(&mut admin.read().await?, refusals::by_support_id(&support_id, REFUSALS))?;
    Ok(Page::whole(rows.into_iter().map(RefusalView::from).collect()))
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
