use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Created, Listed, Paged, created_with, delivered, hostname, listed, region, text};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query, parse};
use crate::control::api::lenient;
use crate::control::db::{DbConn, dispatch};
use crate::control::model::id::{GatewayId, RegionId};
use crate::control::model::state::GatewayStatus;
use crate::control::model::{Gateway, GatewayChange};
use crate::control::runtime::ControlState;
use crate::digest::{fresh_token, sha256_hex};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewGateway {
    name: String,
    region: String,
    public_ip: Option<String>,
    internal_ip: Option<String>,
    #[serde(default, deserialize_with = "lenient::list")]
    exit_regions: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatewayPatch {
    name: Option<String>,
    region: Option<String>,
    public_ip: Option<String>,
    internal_ip: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    draining: Option<bool>,
    #[serde(default, deserialize_with = "lenient::list")]
    exit_regions: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renewal {
    #[serde(default, deserialize_with = "lenient::value")]
    now: Option<bool>,
}

/// An address that is only shown; it may be empty.
fn address(field: &str, value: Option<String>) -> Result<Option<String>, ApiError> {
    match value {
        Some(value) if value.is_empty() => Ok(Some(value)),
        other => hostname(field, other),
    }
}

async fn exits(conn: &mut DbConn, codes: Option<&[String]>) -> Result<Vec<RegionId>, ApiError> {
    let mut ids = Vec::new();
    for code in codes.unwrap_or_default() {
        ids.push(region(conn, "exit_regions", code).await?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

async fn view(conn: &mut DbConn, row: &Gateway) -> Result<Value, ApiError> {
    let exits = dispatch!(conn, admin::exit_codes(row.id))?;
    let (_, Json(value)) = created_with(row, json!({ "exit_regions": exits }))?;
    Ok(value)
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let mut conn = state.db.read().await?;
    let mut rows = dispatch!(&mut conn, admin::list_gateways(page.after(), page.region_id, limit))?;
    let ids: Vec<GatewayId> = rows.iter().map(|row| row.id).collect();
    let instances = dispatch!(&mut conn, instances::of(&ids))?;
    for row in &mut rows {
        row.sum_up(&instances);
    }
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<GatewayId>,
) -> Result<Json<Value>, ApiError> {
    let mut conn = state.db.read().await?;
    let mut row = dispatch!(&mut conn, admin::gateway::get(id))?;
    let instances = dispatch!(&mut conn, instances::of(&[row.id]))?;
    row.sum_up(&instances);
    let exits = dispatch!(&mut conn, admin::exit_codes(row.id))?;
    let (_, value) = created_with(&row, json!({ "exit_regions": exits, "instances": instances }))?;
    Ok(value)
}

fn secret() -> Result<(String, String), ApiError> {
    let token = fresh_token().map_err(ApiError::internal)?;
    let hash = sha256_hex(token.as_bytes());
    Ok((token, hash))
}

/// Makes a gateway with a token, or with an invitation in its place; both are given by their hashes.
async fn insert(
    state: &ControlState,
    new: NewGateway,
    token_hash: String,
    invitation: Option<String>,
) -> Result<Value, ApiError> {
    text("name", Some(&new.name))?;
    let mut conn = state.db.get().await?;
    let now = state.now();
    let row = Gateway {
        id: GatewayId::fresh(),
        region_id: region(&mut conn, "region", &new.region).await?,
        name: new.name,
        public_ip: address("public_ip", new.public_ip)?.unwrap_or_default(),
        internal_ip: address("internal_ip", new.internal_ip)?.unwrap_or_default(),
        status: GatewayStatus::Unknown,
        draining: false,
        token_hash,
        old_token_hash: None,
        enrol_until: invitation.is_some().then(|| now.after(state.pool.gateway_code_ttl)),
        enrol_hash: invitation,
        revoked: false,
        acked_seq: 0,
        version: String::new(),
        sessions: 0,
        streams: 0,
        last_heartbeat_at: None,
        created_at: now,
        clock_offset_ms: None,
        certificate_begins: None,
        certificate_ends: None,
    };
    let exits = exits(&mut conn, new.exit_regions.as_deref()).await?;
    dispatch!(&mut conn, admin::create_gateway(&row, &exits))?;
    view(&mut conn, &row).await
}

pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewGateway>,
) -> Result<Created, ApiError> {
    let (token, hash) = secret()?;
    let row = insert(&state, new, hash, None).await?;
    created_with(&row, json!({ "token": token }))
}

/// Makes a gateway that has no token yet, and a one-time token that it trades for one.
pub(super) async fn invite(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewGateway>,
) -> Result<Created, ApiError> {
    let (_, nobodys) = secret()?;
    let (enroll_token, hash) = secret()?;
    let row = insert(&state, new, nobodys, Some(hash)).await?;
    created_with(&row, json!({ "enroll_token": enroll_token }))
}

/// Another one-time token of a gateway; its token stays good until that is traded.
pub(super) async fn invite_again(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<GatewayId>,
) -> Result<Created, ApiError> {
    let (enroll_token, hash) = secret()?;
    let until = state.now().after(state.pool.gateway_code_ttl);
    let change =
        GatewayChange { enrol_hash: Some(Some(hash)), enrol_until: Some(Some(until)), ..GatewayChange::default() };
    let row = dispatch!(&mut state.db.get().await?, admin::gateway::update(id, &change))?;
    created_with(&row, json!({ "enroll_token": enroll_token }))
}

pub(super) async fn update(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<GatewayId>,
    Body(patch): Body<GatewayPatch>,
) -> Result<Json<Value>, ApiError> {
    text("name", patch.name.as_deref())?;
    let mut conn = state.db.get().await?;
    let change = GatewayChange {
        region_id: match &patch.region {
            Some(code) => Some(region(&mut conn, "region", code).await?),
            None => None,
        },
        name: patch.name,
        public_ip: address("public_ip", patch.public_ip)?,
        internal_ip: address("internal_ip", patch.internal_ip)?,
        draining: patch.draining,
        ..GatewayChange::default()
    };
    let exits = match &patch.exit_regions {
        Some(codes) => Some(exits(&mut conn, Some(codes)).await?),
        None => None,
    };
    let (row, event_seq) = dispatch!(&mut conn, nodes::change_gateway(id, &change, exits.as_deref(), state.now()))?;
    let view = view(&mut conn, &row).await?;
    drop(conn);
    delivered(&state, &view, event_seq).await
}

/// Another token; the one in use stays good until the new one is used, or ends now.
pub(super) async fn rotate_token(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<GatewayId>,
    body: Bytes,
) -> Result<Created, ApiError> {
    let renewal: Renewal = if body.is_empty() { Renewal::default() } else { parse(&body, &[])? };
    let (token, hash) = secret()?;
    let end = renewal.now.unwrap_or(false);
    let renewed = dispatch!(&mut state.db.get().await?, nodes::renew_token(id, &hash, end))?;
    let row =
        renewed.ok_or_else(|| ApiError::conflict("REVOKED", "the gateway is revoked; invite it to let it back"))?;
    created_with(&row, json!({ "token": token }))
}

/// Refuses a gateway from now on, until it is invited again.
pub(super) async fn revoke(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<GatewayId>,
) -> Result<Json<Value>, ApiError> {
    let (row, event_seq) = dispatch!(&mut state.db.get().await?, nodes::revoke(id, state.now()))?;
    delivered(&state, &row, Some(event_seq)).await
}
