use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::Value;

use super::{Listed, Paged, delivered, listed};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{FromAdmin, Query};
use crate::control::db::dispatch;
use crate::control::model::Session;
use crate::control::model::id::SessionId;
use crate::control::runtime::ControlState;

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let mut conn = state.db.read().await?;
    let rows = match (page.user_id, page.device_id) {
        (Some(_), Some(_)) => return Err(ApiError::bad_request("filter by `user_id` or by `device_id`, not by both")),
        (Some(user), None) => dispatch!(&mut conn, admin::list_sessions_of_user(page.after(), user, limit))?,
        (None, device) => dispatch!(&mut conn, admin::list_sessions_of_device(page.after(), device, limit))?,
    };
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<SessionId>,
) -> Result<Json<Session>, ApiError> {
    Ok(Json(dispatch!(&mut state.db.read().await?, session::get(id))?))
}

/// Ends a session for good.
pub(super) async fn kill(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<SessionId>,
) -> Result<Json<Value>, ApiError> {
    let (session, event_seq) = dispatch!(&mut state.db.get().await?, session::kill(id, state.now()))?;
    delivered(&state, &session, event_seq).await
}
