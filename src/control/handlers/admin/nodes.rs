use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Shared};
use serde::Deserialize;
use uuid::Uuid;

use super::{Created, Listed, Paged, created, listed, one_of, region, text};
use crate::control::State;
use crate::control::db::on;
use crate::control::db::types::{Id, Time};
use crate::control::error::ApiError;
use crate::control::extract::{Body, FromAdmin};
use crate::control::lenient;
use crate::control::models::{NodeChange, OutlineNode, Region, RegionChange};
use crate::shadowsocks::NodeKey;

const STATES: [&str; 3] = ["active", "draining", "maintenance"];
const DEFAULT_MAX_SESSIONS: i32 = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRegion {
    code: String,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegionPatch {
    code: Option<String>,
    name: Option<String>,
}

pub(super) async fn list_regions(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = on!(&mut state.db.get().await?, admin::list_regions(page.after(), None, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get_region(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Region>, ApiError> {
    Ok(Json(on!(&mut state.db.get().await?, admin::region::get(Id(id)))?))
}

pub(super) async fn create_region(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewRegion>,
) -> Result<Created, ApiError> {
    text("code", Some(&new.code))?;
    let row = Region { id: Id::fresh(), name: new.name.unwrap_or_else(|| new.code.clone()), code: new.code };
    on!(&mut state.db.get().await?, admin::create_region(&row))?;
    created(&row)
}

pub(super) async fn update_region(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
    Body(patch): Body<RegionPatch>,
) -> Result<Json<Region>, ApiError> {
    text("code", patch.code.as_deref())?;
    let change = RegionChange { code: patch.code, name: patch.name };
    Ok(Json(on!(&mut state.db.get().await?, admin::region::update(Id(id), &change))?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewNode {
    region: String,
    name: Option<String>,
    access_key: Option<String>,
    internal_ip: Option<String>,
    #[serde(default, alias = "ss_port", deserialize_with = "lenient::value")]
    port: Option<u16>,
    #[serde(alias = "ss_method")]
    method: Option<String>,
    #[serde(alias = "ss_password")]
    password: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    max_sessions: Option<i32>,
    #[serde(default, deserialize_with = "lenient::value")]
    weight: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodePatch {
    region: Option<String>,
    name: Option<String>,
    internal_ip: Option<String>,
    #[serde(default, alias = "ss_port", deserialize_with = "lenient::value")]
    port: Option<u16>,
    #[serde(alias = "ss_method")]
    method: Option<String>,
    #[serde(alias = "ss_password")]
    password: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    max_sessions: Option<i32>,
    #[serde(default, deserialize_with = "lenient::value")]
    weight: Option<i32>,
    state: Option<String>,
}

fn key_of(new: &NewNode) -> Result<NodeKey, ApiError> {
    let fields = (&new.internal_ip, new.port, &new.method, &new.password);
    let key = match (&new.access_key, fields) {
        (Some(url), (None, None, None, None)) => {
            NodeKey::parse(url).map_err(|reason| ApiError::invalid("access_key", "INVALID", reason))?
        }
        (None, (Some(host), Some(port), Some(method), Some(password))) => {
            NodeKey { host: host.clone(), port, method: method.clone(), password: password.clone() }
        }
        _ => {
            let detail = "give either `access_key` (ss://…) or internal_ip, port, method and password";
            return Err(ApiError::invalid("access_key", "MISSING", detail));
        }
    };
    checked(key)
}

fn checked(key: NodeKey) -> Result<NodeKey, ApiError> {
    text("internal_ip", Some(&key.host))?;
    if key.port == 0 {
        return Err(ApiError::invalid("port", "OUT_OF_RANGE", "must be 1 to 65535"));
    }
    key.check().map_err(|reason| {
        let field = if reason.contains("cipher \"") || reason.contains("`none`") { "method" } else { "password" };
        ApiError::invalid(field, "INVALID", reason)
    })?;
    Ok(key)
}

fn capacity(max_sessions: Option<i32>, weight: Option<i32>) -> Result<(), ApiError> {
    if max_sessions.is_some_and(|max| max < 0) {
        return Err(ApiError::invalid("max_sessions", "OUT_OF_RANGE", "must not be negative"));
    }
    if weight.is_some_and(|weight| weight < 1) {
        return Err(ApiError::invalid("weight", "OUT_OF_RANGE", "must be at least 1"));
    }
    Ok(())
}

pub(super) async fn list(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let of = page.region_id.map(Id);
    let rows = on!(&mut state.db.get().await?, admin::list_nodes(page.after(), of, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
) -> Result<Json<OutlineNode>, ApiError> {
    Ok(Json(on!(&mut state.db.get().await?, admin::node::get(Id(id)))?))
}

pub(super) async fn create(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewNode>,
) -> Result<Created, ApiError> {
    text("name", new.name.as_deref())?;
    capacity(new.max_sessions, new.weight)?;
    let key = key_of(&new)?;
    let mut conn = state.db.get().await?;
    let id = Id::fresh();
    let row = OutlineNode {
        id,
        region_id: region(&mut conn, "region", &new.region).await?,
        name: new.name.unwrap_or_else(|| format!("{}:{}", key.host, key.port)),
        internal_ip: key.host,
        ss_port: key.port.into(),
        ss_method: key.method,
        ss_password: state.sealer.seal(id, &key.password).map_err(ApiError::internal)?,
        max_sessions: new.max_sessions.unwrap_or(DEFAULT_MAX_SESSIONS),
        active_sessions: 0,
        weight: new.weight.unwrap_or(1),
        state: "active".into(),
        health_status: "unknown".into(),
        last_heartbeat_at: None,
        created_at: Time::now(),
    };
    on!(&mut conn, admin::create_node(&row))?;
    created(&row)
}

pub(super) async fn update(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
    Body(patch): Body<NodePatch>,
) -> Result<Json<OutlineNode>, ApiError> {
    text("name", patch.name.as_deref())?;
    one_of("state", patch.state.as_deref(), &STATES)?;
    capacity(patch.max_sessions, patch.weight)?;
    let mut conn = state.db.get().await?;
    let node = on!(&mut conn, admin::node::get(Id(id)))?;
    let password = match &patch.password {
        Some(password) => password.clone(),
        None => state.sealer.open(node.id, &node.ss_password).map_err(ApiError::internal)?,
    };
    let port = u16::try_from(node.ss_port).map_err(ApiError::internal)?;
    checked(NodeKey {
        host: patch.internal_ip.clone().unwrap_or(node.internal_ip),
        port: patch.port.unwrap_or(port),
        method: patch.method.clone().unwrap_or(node.ss_method),
        password: password.clone(),
    })?;
    let sealed = patch.password.is_some().then(|| state.sealer.seal(node.id, &password));
    let change = NodeChange {
        region_id: match &patch.region {
            Some(code) => Some(region(&mut conn, "region", code).await?),
            None => None,
        },
        name: patch.name,
        internal_ip: patch.internal_ip,
        ss_port: patch.port.map(i32::from),
        ss_method: patch.method,
        ss_password: sealed.transpose().map_err(ApiError::internal)?,
        max_sessions: patch.max_sessions,
        weight: patch.weight,
        state: patch.state,
    };
    Ok(Json(on!(&mut conn, admin::node::update(node.id, &change))?))
}
