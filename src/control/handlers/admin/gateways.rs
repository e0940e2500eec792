use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Shared};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Created, Listed, Paged, created_with, listed, region, text};
use crate::control::State;
use crate::control::db::types::{Id, Time};
use crate::control::db::{DbConn, on};
use crate::control::error::ApiError;
use crate::control::extract::{Body, FromAdmin};
use crate::control::lenient;
use crate::control::models::{Gateway, GatewayChange};
use crate::digest::{fresh_token, sha256_hex};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewGateway {
    name: String,
    region: String,
    #[serde(default)]
    public_ip: String,
    #[serde(default)]
    internal_ip: String,
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

async fn exits(conn: &mut DbConn, codes: Option<&[String]>) -> Result<Vec<Id>, ApiError> {
    let mut ids = Vec::new();
    for code in codes.unwrap_or_default() {
        ids.push(region(conn, "exit_regions", code).await?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

async fn view(conn: &mut DbConn, row: &Gateway) -> Result<Value, ApiError> {
    let exits = on!(conn, admin::exit_codes(row.id))?;
    let (_, Json(value)) = created_with(row, json!({ "exit_regions": exits }))?;
    Ok(value)
}

pub(super) async fn list(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let of = page.region_id.map(Id);
    let rows = on!(&mut state.db.get().await?, admin::list_gateways(page.after(), of, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Value>, ApiError> {
    let mut conn = state.db.get().await?;
    let row = on!(&mut conn, admin::gateway::get(Id(id)))?;
    Ok(Json(view(&mut conn, &row).await?))
}

pub(super) async fn create(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewGateway>,
) -> Result<Created, ApiError> {
    text("name", Some(&new.name))?;
    let mut conn = state.db.get().await?;
    let token = fresh_token().map_err(ApiError::internal)?;
    let row = Gateway {
        id: Id::fresh(),
        region_id: region(&mut conn, "region", &new.region).await?,
        name: new.name,
        public_ip: new.public_ip,
        internal_ip: new.internal_ip,
        status: "unknown".into(),
        draining: false,
        token_hash: sha256_hex(token.as_bytes()),
        version: String::new(),
        sessions: 0,
        streams: 0,
        last_heartbeat_at: None,
        created_at: Time::now(),
    };
    let exits = exits(&mut conn, new.exit_regions.as_deref()).await?;
    on!(&mut conn, admin::create_gateway(&row, &exits))?;
    let exits = on!(&mut conn, admin::exit_codes(row.id))?;
    created_with(&row, json!({ "exit_regions": exits, "token": token }))
}

pub(super) async fn update(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
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
        public_ip: patch.public_ip,
        internal_ip: patch.internal_ip,
        draining: patch.draining,
        token_hash: None,
    };
    let exits = match &patch.exit_regions {
        Some(codes) => Some(exits(&mut conn, Some(codes)).await?),
        None => None,
    };
    let row = on!(&mut conn, admin::gateway::update(Id(id), &change))?;
    if let Some(exits) = exits {
        on!(&mut conn, admin::replace_exits(row.id, &exits))?;
    }
    Ok(Json(view(&mut conn, &row).await?))
}

pub(super) async fn rotate_token(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
) -> Result<Created, ApiError> {
    let token = fresh_token().map_err(ApiError::internal)?;
    let change = GatewayChange { token_hash: Some(sha256_hex(token.as_bytes())), ..GatewayChange::default() };
    let row = on!(&mut state.db.get().await?, admin::gateway::update(Id(id), &change))?;
    created_with(&row, json!({ "token": token }))
}
