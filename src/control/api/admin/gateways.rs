mod tokens;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{hostname, text};
use crate::control::api::answer::{Deleted, Delivered, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, IfMatch, Path, Query, existing};
use crate::control::api::page::{Page, pages, paging};
use crate::control::api::refs::{GatewayRef, RegionRef};
use crate::control::db::{DbConn, Deletable, dispatch};
use crate::control::model::filter::GatewayFilter;
use crate::control::model::id::{GatewayId, InstanceId, RegionId};
use crate::control::model::sort::GatewaySort;
use crate::control::model::state::GatewayStatus;
use crate::control::model::types::Time;
use crate::control::model::{Gateway, GatewayChange, GatewayInstance};

pub(super) use tokens::*;

/// A gateway; its token is shown only when it is made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Gateway)]
pub(super) struct GatewayView {
    id: GatewayId,
    region_id: RegionId,
    #[schema(examples("fra-1"))]
    name: String,
    public_ip: String,
    internal_ip: String,
    status: GatewayStatus,
    draining: bool,
    /// Until when it may trade its one-time token.
    enroll_until: Option<Time>,
    revoked: bool,
    /// The newest event that the gateway has acted on.
    acked_seq: i64,
    version: String,
    sessions: i64,
    streams: i64,
    last_heartbeat_at: Option<Time>,
    created_at: Time,
    /// How far its clock is ahead of the control plane's.
    clock_offset_ms: Option<i64>,
    certificate_begins: Option<Time>,
    certificate_ends: Option<Time>,
    /// Codes of the regions that are listed for it besides its own.
    exit_regions: Vec<String>,
    /// Counts changes; the `ETag` is made of it.
    revision: i32,
}

impl GatewayView {
    fn new(row: Gateway, exit_regions: Vec<String>) -> Self {
        Self {
            id: row.id,
            region_id: row.region_id,
            name: row.name,
            public_ip: row.public_ip,
            internal_ip: row.internal_ip,
            status: row.status,
            draining: row.draining,
            enroll_until: row.enrol_until,
            revoked: row.revoked,
            acked_seq: row.acked_seq,
            version: row.version,
            sessions: row.sessions,
            streams: row.streams,
            last_heartbeat_at: row.last_heartbeat_at,
            created_at: row.created_at,
            clock_offset_ms: row.clock_offset_ms,
            certificate_begins: row.certificate_begins,
            certificate_ends: row.certificate_ends,
            exit_regions,
            revision: row.revision,
        }
    }
}

impl View for GatewayView {
    fn revision(&self) -> Option<i32> {
        Some(self.revision)
    }
}

/// A process that acts for a gateway.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Instance {
    id: InstanceId,
    version: String,
    sessions: i64,
    streams: i64,
    /// The newest event that it has acted on.
    acked_seq: i64,
    started_at: Time,
    last_heartbeat_at: Time,
}

impl From<GatewayInstance> for Instance {
    fn from(row: GatewayInstance) -> Self {
        Self {
            id: row.id,
            version: row.version,
            sessions: row.sessions,
            streams: row.streams,
            acked_seq: row.acked_seq,
            started_at: row.started_at,
            last_heartbeat_at: row.last_heartbeat_at,
        }
    }
}

/// A gateway with the processes that act for it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GatewayWithInstances {
    #[serde(flatten)]
    gateway: GatewayView,
    instances: Vec<Instance>,
}

impl View for GatewayWithInstances {
    fn revision(&self) -> Option<i32> {
        self.gateway.revision()
    }
}

/// A gateway to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "name": "fra-1", "region": "eu-1" })))]
pub(super) struct NewGateway {
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    /// The code or id of the region it stands in.
    region: RegionRef,
    #[schema(max_length = 255)]
    public_ip: Option<String>,
    #[schema(max_length = 255)]
    internal_ip: Option<String>,
    /// Codes or ids; its own if absent.
    #[schema(max_items = 1000)]
    exit_regions: Option<Vec<RegionRef>>,
}

/// What is to be changed of a gateway.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "draining": true })))]
pub(super) struct GatewayPatch {
    #[schema(min_length = 1, max_length = 255)]
    name: Option<String>,
    /// The region's code or id.
    region: Option<RegionRef>,
    #[schema(max_length = 255)]
    public_ip: Option<String>,
    #[schema(max_length = 255)]
    internal_ip: Option<String>,
    draining: Option<bool>,
    /// Codes or ids.
    #[schema(max_items = 1000)]
    exit_regions: Option<Vec<RegionRef>>,
}

/// Which gateways.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GatewayQuery {
    /// By its id or its code.
    region: Option<RegionRef>,
    status: Option<GatewayStatus>,
    draining: Option<bool>,
    /// A field, or `-` and a field for the other direction.
    #[param(inline)]
    sort: Option<Sorting>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Also count the items of all pages.
    count: Option<bool>,
}

pages! { GatewayQuery => GatewaySort }

/// An address that is only shown; it may be empty.
fn address(field: &str, value: Option<String>) -> Result<Option<String>, ApiError> {
    match value {
        Some(value) if value.is_empty() => Ok(Some(value)),
        other => hostname(field, other),
    }
}

async fn exits(conn: &mut DbConn, regions: &[RegionRef]) -> Result<Vec<RegionId>, ApiError> {
    let mut ids = Vec::new();
    for region in regions {
        ids.push(region.given(conn, "exit_regions").await?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

async fn shown(conn: &mut DbConn, row: Gateway) -> Result<GatewayView, ApiError> {
    let exits = dispatch!(conn, admin::exit_codes(row.id))?;
    Ok(GatewayView::new(row, exits))
}

/// Names the gateway that has a name already, if that is what an error means.
async fn taken(admin: &Admin, error: ApiError, name: &str) -> ApiError {
    existing!(admin, error, names::gateway_named(name), format!("a gateway {name:?} exists"))
}

/// Lists gateways
#[utoipa::path(get, path = "/gateways", tag = "gateways", operation_id = "list_gateways", params(GatewayQuery),
    responses((status = OK, body = Page<GatewayView>)))]
pub(super) async fn list(admin: Admin, Query(query): Query<GatewayQuery>) -> Result<Json<Page<GatewayView>>, ApiError> {
    let paging = paging(&query)?;
    let mut conn = admin.read().await?;
    let filter = GatewayFilter {
        region: RegionRef::maybe(query.region.as_ref(), &mut conn, "region").await?,
        status: query.status,
        draining: query.draining,
    };
    let mut found = dispatch!(&mut conn, lists::gateways(&filter, &paging))?;
    let ids: Vec<GatewayId> = found.rows.iter().map(|row| row.id).collect();
    let instances = dispatch!(&mut conn, instances::of(&ids))?;
    let exits = dispatch!(&mut conn, names::exits_of(&ids))?;
    for row in &mut found.rows {
        row.sum_up(&instances);
    }
    Page::of(found, &paging, |row| {
        let codes = exits.get(&row.id).cloned().unwrap_or_default();
        GatewayView::new(row, codes)
    })
}

/// Shows a gateway
#[utoipa::path(get, path = "/gateways/{id}", tag = "gateways", operation_id = "get_gateway",
    params(("id" = GatewayRef, Path)), responses((status = OK, body = GatewayWithInstances)))]
pub(super) async fn get(admin: Admin, Path(gateway): Path<GatewayRef>) -> Result<One<GatewayWithInstances>, ApiError> {
    let mut conn = admin.read().await?;
    let id = gateway.asked(&mut conn).await?;
    let mut row = dispatch!(&mut conn, admin::gateway::get(id))?;
    let instances = dispatch!(&mut conn, instances::of(&[row.id]))?;
    row.sum_up(&instances);
    let gateway = shown(&mut conn, row).await?;
    Ok(One(GatewayWithInstances { gateway, instances: instances.into_iter().map(Instance::from).collect() }))
}

/// Changes a gateway
#[utoipa::path(patch, path = "/gateways/{id}", tag = "gateways", operation_id = "update_gateway",
    params(("id" = GatewayRef, Path)), request_body = GatewayPatch,
    responses((status = OK, body = Delivered<GatewayView>)))]
pub(super) async fn update(
    admin: Admin,
    Path(gateway): Path<GatewayRef>,
    IfMatch(expected): IfMatch,
    Body(patch): Body<GatewayPatch>,
) -> Result<Delivered<GatewayView>, ApiError> {
    text("name", patch.name.as_deref())?;
    let mut conn = admin.write().await?;
    let id = gateway.asked(&mut conn).await?;
    let change = GatewayChange {
        region_id: RegionRef::maybe(patch.region.as_ref(), &mut conn, "region").await?,
        name: patch.name,
        public_ip: address("public_ip", patch.public_ip)?,
        internal_ip: address("internal_ip", patch.internal_ip)?,
        draining: patch.draining,
        ..GatewayChange::default()
    };
    let exits = match &patch.exit_regions {
        Some(regions) => Some(exits(&mut conn, regions).await?),
        None => None,
    };
    let changed = dispatch!(&mut conn, nodes::change_gateway(id, &change, &expected, exits.as_deref(), admin.now));
    match (changed, change.name) {
        (Ok(changed), _) => {
            let view = shown(&mut conn, changed.row).await?;
            drop(conn);
            Ok(Delivered::of(&admin.state, view, changed.event_seq).await)
        }
        (Err(error), Some(name)) => {
            drop(conn);
            Err(taken(&admin, error.into(), &name).await)
        }
        (Err(error), None) => Err(error.into()),
    }
}

/// Deletes a gateway
///
/// With its sessions, which end at once.
#[utoipa::path(delete, path = "/gateways/{id}", tag = "gateways", operation_id = "delete_gateway",
    params(("id" = GatewayRef, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(gateway): Path<GatewayRef>) -> Result<Deleted, ApiError> {
    let id = gateway.asked(&mut admin.read().await?).await?;
    admin.delete(Deletable::Gateway(id)).await
}
