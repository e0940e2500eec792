use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::control::api::answer::{Delivered, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Path, Query};
use crate::control::api::page::{Page, pages, paging};
use crate::control::api::refs::GatewayRef;
use crate::control::db::dispatch;
use crate::control::model::Session;
use crate::control::model::filter::SessionFilter;
use crate::control::model::id::{DeviceId, GatewayId, NodeId, SessionId, SubscriptionId, UserId};
use crate::control::model::sort::SessionSort;
use crate::control::model::state::SessionState;
use crate::control::model::types::Time;

/// One tunnel of a device and what it moved.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionView {
    id: SessionId,
    user_id: UserId,
    device_id: DeviceId,
    subscription_id: Option<SubscriptionId>,
    gateway_node_id: GatewayId,
    outline_node_id: Option<NodeId>,
    state: SessionState,
    started_at: Time,
    last_report_at: Option<Time>,
    expires_at: Time,
    ended_at: Option<Time>,
    bytes_up: i64,
    bytes_down: i64,
    /// Bytes in all that the session may move.
    lease_bytes: i64,
    /// The period they are charged to.
    lease_period: Option<Time>,
    /// Its client has sent nothing for a while, or its gateway's process drains.
    silent: bool,
}

impl From<Session> for SessionView {
    fn from(row: Session) -> Self {
        Self {
            id: row.id,
            user_id: row.user_id,
            device_id: row.device_id,
            subscription_id: row.subscription_id,
            gateway_node_id: row.gateway_node_id,
            outline_node_id: row.outline_node_id,
            state: row.state,
            started_at: row.started_at,
            last_report_at: row.last_report_at,
            expires_at: row.expires_at,
            ended_at: row.ended_at,
            bytes_up: row.bytes_up,
            bytes_down: row.bytes_down,
            lease_bytes: row.lease_bytes,
            lease_period: row.lease_period,
            silent: row.silent,
        }
    }
}

impl View for SessionView {}

/// Which sessions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SessionQuery {
    user_id: Option<UserId>,
    device_id: Option<DeviceId>,
    /// By its id or its name.
    gateway_id: Option<GatewayRef>,
    node_id: Option<NodeId>,
    state: Option<SessionState>,
    /// Begun then or later.
    started_after: Option<Time>,
    /// Begun before.
    started_before: Option<Time>,
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

pages! { SessionQuery => SessionSort }

/// Lists sessions
#[utoipa::path(get, path = "/sessions", tag = "sessions", operation_id = "list_sessions", params(SessionQuery),
    responses((status = OK, body = Page<SessionView>)))]
pub(super) async fn list(admin: Admin, Query(query): Query<SessionQuery>) -> Result<Json<Page<SessionView>>, ApiError> {
    let paging = paging(&query)?;
    let mut conn = admin.read().await?;
    let filter = SessionFilter {
        user: query.user_id,
        device: query.device_id,
        gateway: GatewayRef::maybe(query.gateway_id.as_ref(), &mut conn, "gateway_id").await?,
        node: query.node_id,
        state: query.state,
        started_after: query.started_after,
        started_before: query.started_before,
    };
    let found = dispatch!(&mut conn, lists::sessions(&filter, &paging))?;
    Page::of(found, &paging, SessionView::from)
}

/// Shows a session
#[utoipa::path(get, path = "/sessions/{id}", tag = "sessions", operation_id = "get_session",
    params(("id" = SessionId, Path)), responses((status = OK, body = SessionView)))]
pub(super) async fn get(admin: Admin, Path(id): Path<SessionId>) -> Result<One<SessionView>, ApiError> {
    Ok(One(dispatch!(&mut admin.read().await?, session::get(id))?.into()))
}

/// Ends a session for good
#[utoipa::path(delete, path = "/sessions/{id}", tag = "sessions", operation_id = "kill_session",
    params(("id" = SessionId, Path)), responses((status = OK, body = Delivered<SessionView>)))]
pub(super) async fn kill(admin: Admin, Path(id): Path<SessionId>) -> Result<Delivered<SessionView>, ApiError> {
    let killed = dispatch!(&mut admin.write().await?, session::kill(id, admin.now))?;
    Ok(Delivered::of(&admin.state, killed.row.into(), killed.event_seq).await)
}
