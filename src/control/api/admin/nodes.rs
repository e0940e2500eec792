mod health;
mod import;
mod password;

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{hostname, text};
use crate::control::api::answer::{Created, Deleted, Delivered, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, IfMatch, Path, Query, existing};
use crate::control::api::page::{Page, pages, paging};
use crate::control::api::refs::RegionRef;
use crate::control::db::{Deletable, dispatch};
use crate::control::model::filter::NodeFilter;
use crate::control::model::id::{NodeId, RegionId};
use crate::control::model::sort::NodeSort;
use crate::control::model::state::{NodeHealth, NodeState, NodeStatus};
use crate::control::model::types::Time;
use crate::control::model::{NodeChange, OutlineNode};
use crate::control::runtime::ControlState;
use crate::shadowsocks::{AccessKey, KeyError, NodeKey};

pub(super) use health::*;
pub(super) use import::*;
pub(super) use password::*;

const DEFAULT_MAX_SESSIONS: i32 = 1000;

/// A Shadowsocks server; its password is never shown.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Node)]
pub(super) struct NodeView {
    id: NodeId,
    region_id: RegionId,
    name: String,
    /// An address or a host name.
    #[schema(examples("10.0.0.5"))]
    internal_ip: String,
    ss_port: i32,
    #[schema(examples("chacha20-ietf-poly1305"))]
    ss_method: String,
    /// Counts passwords.
    generation: i32,
    /// Streams of older generations are moved.
    oldest_generation: i32,
    max_sessions: i32,
    active_sessions: i32,
    weight: i32,
    /// What an administrator wants of it.
    state: NodeState,
    health_status: NodeHealth,
    /// Whether it keeps half closes; null until a gateway has found out.
    half_close: Option<bool>,
    last_heartbeat_at: Option<Time>,
    created_at: Time,
    /// The state, or `offline` if it is active and not reachable.
    status: NodeStatus,
    /// Of a draining node.
    sessions_left: Option<i32>,
    keeps_old_password: bool,
    /// Counts changes; the `ETag` is made of it.
    revision: i32,
}

impl From<OutlineNode> for NodeView {
    fn from(row: OutlineNode) -> Self {
        Self {
            status: row.status(),
            sessions_left: (row.state == NodeState::Draining).then_some(row.active_sessions),
            keeps_old_password: row.ss_password_old.is_some(),
            id: row.id,
            region_id: row.region_id,
            name: row.name,
            internal_ip: row.internal_ip,
            ss_port: row.ss_port,
            ss_method: row.ss_method,
            generation: row.generation,
            oldest_generation: row.oldest_generation,
            max_sessions: row.max_sessions,
            active_sessions: row.active_sessions,
            weight: row.weight,
            state: row.state,
            health_status: row.health_status,
            half_close: row.half_close,
            last_heartbeat_at: row.last_heartbeat_at,
            created_at: row.created_at,
            revision: row.revision,
        }
    }
}

impl View for NodeView {
    fn revision(&self) -> Option<i32> {
        Some(self.revision)
    }
}

/// A node to make, by its access key or by all of address, port, method and password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "region": "eu-1",
    "internal_ip": "10.0.0.5",
    "port": 8388,
    "method": "chacha20-ietf-poly1305",
    "password": "correct horse battery staple"
})))]
pub(super) struct NewNode {
    /// The region's code or id.
    region: RegionRef,
    /// The access key's name, or the address and port, if absent.
    #[schema(min_length = 1, max_length = 255)]
    name: Option<String>,
    /// `ss://…`, as Outline Manager gives it.
    access_key: Option<String>,
    #[schema(min_length = 1, max_length = 255)]
    internal_ip: Option<String>,
    #[schema(minimum = 1, maximum = 65535)]
    port: Option<u16>,
    /// An AEAD or AEAD-2022 cipher.
    method: Option<String>,
    #[schema(write_only)]
    password: Option<String>,
    /// 1000 if absent.
    #[schema(minimum = 0)]
    max_sessions: Option<i32>,
    /// 1 if absent.
    #[schema(minimum = 1)]
    weight: Option<i32>,
}

/// What is to be changed of a node.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "state": "draining" })))]
pub(super) struct NodePatch {
    /// The region's code or id.
    region: Option<RegionRef>,
    #[schema(min_length = 1, max_length = 255)]
    name: Option<String>,
    #[schema(min_length = 1, max_length = 255)]
    internal_ip: Option<String>,
    #[schema(minimum = 1, maximum = 65535)]
    port: Option<u16>,
    method: Option<String>,
    /// Takes the place of the former one at once; `POST …/password` keeps both for a while.
    #[schema(write_only)]
    password: Option<String>,
    #[schema(minimum = 0)]
    max_sessions: Option<i32>,
    #[schema(minimum = 1)]
    weight: Option<i32>,
    state: Option<NodeState>,
}

/// Which nodes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeQuery {
    /// By its id or its code.
    region: Option<RegionRef>,
    status: Option<NodeStatus>,
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

pages! { NodeQuery => NodeSort }

/// What is to become a node: its key, and what it is called if that was said.
struct Described {
    key: NodeKey,
    name: Option<String>,
}

/// The key of a new node, and what its access key calls it.
fn described(new: &NewNode) -> Result<Described, ApiError> {
    let fields = (&new.internal_ip, new.port, &new.method, &new.password);
    match (&new.access_key, fields) {
        (Some(url), (None, None, None, None)) => parsed(url),
        (None, (Some(host), Some(port), Some(method), Some(password))) => {
            let key = NodeKey { host: host.clone(), port, method: method.clone(), password: password.clone() };
            Ok(Described { key: key.canonical().map_err(refused)?, name: None })
        }
        _ => {
            let detail = "give either `access_key` (ss://…) or internal_ip, port, method and password";
            Err(ApiError::invalid("access_key", "MISSING", detail))
        }
    }
}

fn parsed(url: &str) -> Result<Described, ApiError> {
    let parsed = AccessKey::parse(url);
    let AccessKey { key, name } =
        parsed.map_err(|error| ApiError::invalid("access_key", "INVALID", error.to_string()))?;
    Ok(Described { key, name })
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
    Described { key, name }: Described,
    capacity: Capacity,
    now: Time,
) -> Result<OutlineNode, ApiError> {
    let id = NodeId::fresh();
    Ok(OutlineNode {
        id,
        region_id: region,
        name: name.unwrap_or_else(|| format!("{}:{}", key.host, key.port)),
        ss_password: state.sealer.seal(id.as_bytes(), &key.password).map_err(ApiError::internal)?,
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
        created_at: now,
        revision: 0,
    })
}

/// Names the node that has an address already, if that is what an error means.
async fn taken(admin: &Admin, error: ApiError, host: &str, port: i32) -> ApiError {
    existing!(admin, error, names::node(host, port), format!("there is a node at {host}:{port}"))
}

/// Lists nodes
#[utoipa::path(get, path = "/nodes", tag = "nodes", operation_id = "list_nodes", params(NodeQuery),
    responses((status = OK, body = Page<NodeView>)))]
pub(super) async fn list(admin: Admin, Query(query): Query<NodeQuery>) -> Result<Json<Page<NodeView>>, ApiError> {
    let paging = paging(&query)?;
    let mut conn = admin.read().await?;
    let region = RegionRef::maybe(query.region.as_ref(), &mut conn, "region").await?;
    let filter = NodeFilter { region, status: query.status };
    let found = dispatch!(&mut conn, lists::nodes(&filter, &paging))?;
    Page::of(found, &paging, NodeView::from)
}

/// Shows a node
#[utoipa::path(get, path = "/nodes/{id}", tag = "nodes", operation_id = "get_node",
    params(("id" = NodeId, Path)), responses((status = OK, body = NodeView)))]
pub(super) async fn get(admin: Admin, Path(id): Path<NodeId>) -> Result<One<NodeView>, ApiError> {
    Ok(One(dispatch!(&mut admin.read().await?, admin::node::get(id))?.into()))
}

/// Makes a node
#[utoipa::path(post, path = "/nodes", tag = "nodes", operation_id = "create_node", request_body = NewNode,
    responses((status = CREATED, body = Delivered<NodeView>)))]
pub(super) async fn create(admin: Admin, Body(new): Body<NewNode>) -> Result<Created<Delivered<NodeView>>, ApiError> {
    text("name", new.name.as_deref())?;
    let capacity = capacity(new.max_sessions, new.weight)?;
    let described = described(&new)?;
    let described = Described { name: new.name.or(described.name), ..described };
    let mut conn = admin.write().await?;
    let region = new.region.given(&mut conn, "region").await?;
    let row = fresh(&admin.state, region, described, capacity, admin.now)?;
    let made = dispatch!(&mut conn, nodes::create(&row, admin.now));
    drop(conn);
    match made {
        Ok(event_seq) => Ok(Created(Delivered::of(&admin.state, row.into(), Some(event_seq)).await)),
        Err(error) => Err(taken(&admin, error.into(), &row.internal_ip, row.ss_port).await),
    }
}

/// Changes a node
///
/// Gateways have it at once; one that is drained takes no new sessions.
#[utoipa::path(patch, path = "/nodes/{id}", tag = "nodes", operation_id = "update_node",
    params(("id" = NodeId, Path)), request_body = NodePatch, responses((status = OK, body = Delivered<NodeView>)))]
pub(super) async fn update(
    admin: Admin,
    Path(id): Path<NodeId>,
    IfMatch(expected): IfMatch,
    Body(patch): Body<NodePatch>,
) -> Result<Delivered<NodeView>, ApiError> {
    text("name", patch.name.as_deref())?;
    capacity(patch.max_sessions, patch.weight)?;
    let mut conn = admin.write().await?;
    let node = dispatch!(&mut conn, admin::node::get(id))?;
    let sealer = &admin.state.sealer;
    let password = match &patch.password {
        Some(password) => password.clone(),
        None => sealer.open(node.id.as_bytes(), &node.ss_password).map_err(ApiError::internal)?,
    };
    let host = hostname("internal_ip", patch.internal_ip)?;
    if patch.port == Some(0) {
        return Err(refused(KeyError::Port));
    }
    let method = patch.method.clone().unwrap_or(node.ss_method);
    let address =
        (host.clone().unwrap_or_else(|| node.internal_ip.clone()), patch.port.map_or(node.ss_port, i32::from));
    NodeKey { host: node.internal_ip, port: patch.port.unwrap_or(1), method, password: password.clone() }
        .server_config()
        .map_err(refused)?;
    let sealed = patch.password.is_some().then(|| sealer.seal(node.id.as_bytes(), &password));
    let change = NodeChange {
        region_id: RegionRef::maybe(patch.region.as_ref(), &mut conn, "region").await?,
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
    let changed = dispatch!(&mut conn, nodes::change(node.id, &change, &expected, false, admin.now));
    drop(conn);
    match changed {
        Ok(changed) => Ok(Delivered::of(&admin.state, changed.row.into(), changed.event_seq).await),
        Err(error) => Err(taken(&admin, error.into(), &address.0, address.1).await),
    }
}

/// Deletes a node
///
/// Its sessions go on through others.
#[utoipa::path(delete, path = "/nodes/{id}", tag = "nodes", operation_id = "delete_node",
    params(("id" = NodeId, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(id): Path<NodeId>) -> Result<Deleted, ApiError> {
    admin.delete(Deletable::Node(id)).await
}
