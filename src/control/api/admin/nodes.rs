mod health;
mod import;
mod password;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Created, Listed, Paged, delivered, hostname, listed, region, text};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query};
use crate::control::api::lenient;
use crate::control::db::dispatch;
use crate::control::model::id::{NodeId, RegionId};
use crate::control::model::state::{NodeHealth, NodeState};
use crate::control::model::{NodeChange, OutlineNode};
use crate::control::runtime::ControlState;
use crate::shadowsocks::{AccessKey, KeyError, NodeKey};

pub(super) use health::health;
pub(super) use import::import;
pub(super) use password::password;

const DEFAULT_MAX_SESSIONS: i32 = 1000;

/// A node with what follows from its columns.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: OutlineNode,
    /// The state, or `offline` if it is active and not reachable.
    status: &'static str,
    /// Of a draining node.
    sessions_left: Option<i32>,
    keeps_old_password: bool,
}

impl From<OutlineNode> for Shown {
    fn from(row: OutlineNode) -> Self {
        let is_offline = row.state == NodeState::Active && row.health_status.is_bad();
        Self {
            status: if is_offline { NodeHealth::Offline.as_str() } else { row.state.as_str() },
            sessions_left: (row.state == NodeState::Draining).then_some(row.active_sessions),
            keeps_old_password: row.ss_password_old.is_some(),
            row,
        }
    }
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
    state: Option<NodeState>,
}

/// The key of a new node, and what its access key calls it.
fn key_of(new: &NewNode) -> Result<(NodeKey, Option<String>), ApiError> {
    let fields = (&new.internal_ip, new.port, &new.method, &new.password);
    match (&new.access_key, fields) {
        (Some(url), (None, None, None, None)) => {
            let AccessKey { key, name } = parsed(url)?;
            Ok((key, name))
        }
        (None, (Some(host), Some(port), Some(method), Some(password))) => {
            let key = NodeKey { host: host.clone(), port, method: method.clone(), password: password.clone() };
            Ok((key.canonical().map_err(refused)?, None))
        }
        _ => {
            let detail = "give either `access_key` (ss://…) or internal_ip, port, method and password";
            Err(ApiError::invalid("access_key", "MISSING", detail))
        }
    }
}

fn parsed(url: &str) -> Result<AccessKey, ApiError> {
    AccessKey::parse(url).map_err(|error| ApiError::invalid("access_key", "INVALID", error.to_string()))
}

/// Names the field that will not do.
#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn refused(error: KeyError) -> ApiError {
    let (field, code) = match error {
        KeyError::Url(_) => ("access_key", "INVALID"),
        KeyError::Host => ("internal_ip", "INVALID"),
        KeyError::Port => ("port", "OUT_OF_RANGE"),
        KeyError::Method(_) => ("method", "INVALID"),
        KeyError::Password(_) => ("password", "INVALID"),
    };
    ApiError::invalid(field, code, error.to_string())
}

/// How much a node takes.
#[derive(Clone, Copy)]
struct Capacity {
    max_sessions: i32,
    weight: i32,
}

fn capacity(max_sessions: Option<i32>, weight: Option<i32>) -> Result<Capacity, ApiError> {
    if max_sessions.is_some_and(|max| max < 0) {
        return Err(ApiError::invalid("max_sessions", "OUT_OF_RANGE", "must not be negative"));
    }
    if weight.is_some_and(|weight| weight < 1) {
        return Err(ApiError::invalid("weight", "OUT_OF_RANGE", "must be at least 1"));
    }
    Ok(Capacity { max_sessions: max_sessions.unwrap_or(DEFAULT_MAX_SESSIONS), weight: weight.unwrap_or(1) })
}

fn fresh(
    state: &ControlState,
    region: RegionId,
    (key, name): (NodeKey, Option<String>),
    capacity: Capacity,
) -> Result<OutlineNode, ApiError> {
    let id = NodeId::fresh();
    Ok(OutlineNode {
        id,
        region_id: region,
        name: name.unwrap_or_else(|| format!("{}:{}", key.host, key.port)),
        ss_password: state.sealer.seal(id, &key.password).map_err(ApiError::internal)?,
        internal_ip: key.host,
        ss_port: key.port.into(),
        ss_method: key.method,
        ss_password_old: None,
        generation: 1,
        oldest_generation: 1,
        max_sessions: capacity.max_sessions,
        active_sessions: 0,
        weight: capacity.weight,
        state: NodeState::Active,
        health_status: NodeHealth::Unknown,
        half_close: None,
        last_heartbeat_at: None,
        created_at: state.now(),
    })
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_nodes(page.after(), page.region_id, limit))?;
    let rows: Vec<Shown> = rows.into_iter().map(Shown::from).collect();
    listed(&rows, |shown| shown.row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<NodeId>,
) -> Result<Json<Value>, ApiError> {
    let row = dispatch!(&mut state.db.read().await?, admin::node::get(id))?;
    delivered(&state, &Shown::from(row), None).await
}

pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewNode>,
) -> Result<Created, ApiError> {
    text("name", new.name.as_deref())?;
    let capacity = capacity(new.max_sessions, new.weight)?;
    let (key, called) = key_of(&new)?;
    let region = region(&mut state.db.read().await?, "region", &new.region).await?;
    let row = fresh(&state, region, (key, new.name.or(called)), capacity)?;
    let event_seq = dispatch!(&mut state.db.get().await?, nodes::create(&row, state.now()))?;
    Ok((StatusCode::CREATED, delivered(&state, &Shown::from(row), Some(event_seq)).await?))
}

pub(super) async fn update(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<NodeId>,
    Body(patch): Body<NodePatch>,
) -> Result<Json<Value>, ApiError> {
    text("name", patch.name.as_deref())?;
    capacity(patch.max_sessions, patch.weight)?;
    let mut conn = state.db.get().await?;
    let node = dispatch!(&mut conn, admin::node::get(id))?;
    let password = match &patch.password {
        Some(password) => password.clone(),
        None => state.sealer.open(node.id, &node.ss_password).map_err(ApiError::internal)?,
    };
    let host = hostname("internal_ip", patch.internal_ip)?;
    if patch.port == Some(0) {
        return Err(refused(KeyError::Port));
    }
    let method = patch.method.clone().unwrap_or(node.ss_method);
    NodeKey { host: node.internal_ip, port: patch.port.unwrap_or(1), method, password: password.clone() }
        .server_config()
        .map_err(refused)?;
    let sealed = patch.password.is_some().then(|| state.sealer.seal(node.id, &password));
    let change = NodeChange {
        region_id: match &patch.region {
            Some(code) => Some(region(&mut conn, "region", code).await?),
            None => None,
        },
        name: patch.name,
        internal_ip: host,
        ss_port: patch.port.map(i32::from),
        ss_method: patch.method,
        ss_password: sealed.transpose().map_err(ApiError::internal)?,
        max_sessions: patch.max_sessions,
        weight: patch.weight,
        state: patch.state,
        ..NodeChange::default()
    };
    let (row, event_seq) = dispatch!(&mut conn, nodes::change(node.id, &change, false, state.now()))?;
    drop(conn);
    delivered(&state, &Shown::from(row), event_seq).await
}
