use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Created, Listed, Paged, created, created_with, delivered, listed, text};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query};
use crate::control::db::dispatch;
use crate::control::model::NewEvent;
use crate::control::model::id::{DeviceId, UserId};
use crate::control::model::state::{DeviceStatus, IdentifierKind, UserStatus};
use crate::control::model::{Device, DeviceChange, User, UserChange};
use crate::control::runtime::ControlState;
use crate::frame::SessionCode;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    identifier: String,
    identifier_kind: Option<IdentifierKind>,
    status: Option<UserStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPatch {
    identifier: Option<String>,
    identifier_kind: Option<IdentifierKind>,
    status: Option<UserStatus>,
}

/// What an identifier looks like.
fn kind_of(identifier: &str) -> IdentifierKind {
    if identifier.contains('@') {
        IdentifierKind::Email
    } else if identifier.starts_with('+') {
        IdentifierKind::Phone
    } else {
        IdentifierKind::TelegramId
    }
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_users(page.after(), limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<UserId>,
) -> Result<Json<User>, ApiError> {
    Ok(Json(dispatch!(&mut state.db.read().await?, admin::user::get(id))?))
}

pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewUser>,
) -> Result<Created, ApiError> {
    text("identifier", Some(&new.identifier))?;
    let now = state.now();
    let row = User {
        id: UserId::fresh(),
        identifier_kind: new.identifier_kind.unwrap_or_else(|| kind_of(&new.identifier)),
        identifier: new.identifier,
        status: new.status.unwrap_or(UserStatus::Active),
        created_at: now,
        updated_at: now,
    };
    dispatch!(&mut state.db.get().await?, admin::create_user(&row))?;
    created(&row)
}

pub(super) async fn update(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<UserId>,
    Body(patch): Body<UserPatch>,
) -> Result<Json<Value>, ApiError> {
    text("identifier", patch.identifier.as_deref())?;
    let change = UserChange {
        identifier_kind: patch.identifier_kind,
        identifier: patch.identifier,
        status: patch.status,
        updated_at: Some(state.now()),
    };
    let now = state.now();
    let event = patch.status.map(|status| match status {
        UserStatus::Banned => NewEvent::UserStopped(id, SessionCode::UserBanned),
        UserStatus::Pending => NewEvent::UserStopped(id, SessionCode::UserPending),
        UserStatus::Active => NewEvent::UserChanged(id),
    });
    let (row, event_seq) = dispatch!(&mut state.db.get().await?, admin::change_user(id, &change, event, now))?;
    delivered(&state, &row, event_seq).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDevice {
    user_id: UserId,
    device_uuid: Option<String>,
    platform: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DevicePatch {
    platform: Option<String>,
    name: Option<String>,
    status: Option<DeviceStatus>,
}

pub(super) async fn list_devices(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_devices(page.after(), page.user_id, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get_device(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<DeviceId>,
) -> Result<Json<Device>, ApiError> {
    Ok(Json(dispatch!(&mut state.db.read().await?, admin::device::get(id))?))
}

pub(super) async fn create_device(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewDevice>,
) -> Result<Created, ApiError> {
    text("device_uuid", new.device_uuid.as_deref())?;
    text("platform", new.platform.as_deref())?;
    let row = Device {
        id: DeviceId::fresh(),
        user_id: new.user_id,
        device_uuid: new.device_uuid.unwrap_or_else(|| Uuid::new_v4().to_string()),
        platform: new.platform.unwrap_or_else(|| "unknown".into()),
        name: new.name.unwrap_or_default(),
        client_version: None,
        status: DeviceStatus::Active,
        created_at: state.now(),
        last_seen_at: None,
    };
    dispatch!(&mut state.db.get().await?, admin::create_device(&row))?;
    created_with(&row, issue(&state, &row)?)
}

pub(super) async fn update_device(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<DeviceId>,
    Body(patch): Body<DevicePatch>,
) -> Result<Json<Value>, ApiError> {
    text("platform", patch.platform.as_deref())?;
    let change = DeviceChange { platform: patch.platform, name: patch.name, status: patch.status };
    let (row, event_seq) = dispatch!(&mut state.db.get().await?, admin::change_device(id, &change, state.now()))?;
    delivered(&state, &row, event_seq).await
}

pub(super) async fn device_token(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<DeviceId>,
) -> Result<Created, ApiError> {
    let row = dispatch!(&mut state.db.read().await?, admin::device::get(id))?;
    created_with(&row, issue(&state, &row)?)
}

fn issue(state: &ControlState, device: &Device) -> Result<Value, ApiError> {
    let now = state.now();
    let life = i64::try_from(state.config.token_ttl.as_secs()).unwrap_or(i64::MAX);
    let token = state
        .issuer
        .issue(device.id.uuid(), device.user_id.uuid(), now.0.unix_timestamp(), life)
        .map_err(ApiError::internal)?;
    Ok(json!({ "access_token": token, "token_expires_at": now.after(state.config.token_ttl) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_told_apart() {
        assert_eq!(kind_of("a@b.c"), IdentifierKind::Email);
        assert_eq!(kind_of("+4912345"), IdentifierKind::Phone);
        assert_eq!(kind_of("0123"), IdentifierKind::TelegramId);
    }
}
