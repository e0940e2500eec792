use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Created, Listed, Paged, created, created_with, delivered, listed, one_of, text};
use crate::api::EventKind;
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query};
use crate::control::db::dispatch;
use crate::control::model::Emit;
use crate::control::model::types::{Id, Time};
use crate::control::model::{Device, DeviceChange, User, UserChange};
use crate::control::runtime::ControlState;
use crate::frame::SessionCode;

const KINDS: [&str; 3] = ["email", "telegram_id", "phone"];
const USER_STATES: [&str; 3] = ["active", "banned", "pending"];
const DEVICE_STATES: [&str; 2] = ["active", "revoked"];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    identifier: String,
    identifier_kind: Option<String>,
    status: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserPatch {
    identifier: Option<String>,
    identifier_kind: Option<String>,
    status: Option<String>,
}

/// What an identifier looks like.
fn kind_of(identifier: &str) -> &'static str {
    if identifier.contains('@') {
        "email"
    } else if identifier.starts_with('+') {
        "phone"
    } else {
        "telegram_id"
    }
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_users(page.after(), None, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<Uuid>,
) -> Result<Json<User>, ApiError> {
    Ok(Json(dispatch!(&mut state.db.read().await?, admin::user::get(Id(id)))?))
}

pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewUser>,
) -> Result<Created, ApiError> {
    text("identifier", Some(&new.identifier))?;
    one_of("identifier_kind", new.identifier_kind.as_deref(), &KINDS)?;
    one_of("status", new.status.as_deref(), &USER_STATES)?;
    let now = Time::now();
    let row = User {
        id: Id::fresh(),
        identifier_kind: new.identifier_kind.unwrap_or_else(|| kind_of(&new.identifier).to_owned()),
        identifier: new.identifier,
        status: new.status.unwrap_or_else(|| "active".into()),
        created_at: now,
        updated_at: now,
    };
    dispatch!(&mut state.db.get().await?, admin::create_user(&row))?;
    created(&row)
}

pub(super) async fn update(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<Uuid>,
    Body(patch): Body<UserPatch>,
) -> Result<Json<Value>, ApiError> {
    text("identifier", patch.identifier.as_deref())?;
    one_of("identifier_kind", patch.identifier_kind.as_deref(), &KINDS)?;
    one_of("status", patch.status.as_deref(), &USER_STATES)?;
    let change = UserChange {
        identifier_kind: patch.identifier_kind,
        identifier: patch.identifier,
        status: patch.status.clone(),
        updated_at: Some(Time::now()),
    };
    let now = Time::now();
    let emit = patch.status.as_deref().map(|status| match status {
        "banned" => Emit::stopped(EventKind::UserStopped, Id(id), SessionCode::UserBanned),
        "pending" => Emit::stopped(EventKind::UserStopped, Id(id), SessionCode::UserPending),
        _ => Emit::changed(EventKind::UserChanged, Id(id)),
    });
    let (row, event_seq) = dispatch!(&mut state.db.get().await?, admin::change_user(Id(id), &change, emit, now))?;
    delivered(&state, &row, event_seq).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDevice {
    user_id: Uuid,
    device_uuid: Option<String>,
    platform: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DevicePatch {
    platform: Option<String>,
    name: Option<String>,
    status: Option<String>,
}

pub(super) async fn list_devices(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let of = page.user_id.map(Id);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_devices(page.after(), of, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get_device(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Device>, ApiError> {
    Ok(Json(dispatch!(&mut state.db.read().await?, admin::device::get(Id(id)))?))
}

pub(super) async fn create_device(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewDevice>,
) -> Result<Created, ApiError> {
    text("device_uuid", new.device_uuid.as_deref())?;
    text("platform", new.platform.as_deref())?;
    let row = Device {
        id: Id::fresh(),
        user_id: Id(new.user_id),
        device_uuid: new.device_uuid.unwrap_or_else(|| Uuid::new_v4().to_string()),
        platform: new.platform.unwrap_or_else(|| "unknown".into()),
        name: new.name.unwrap_or_default(),
        client_version: None,
        status: "active".into(),
        created_at: Time::now(),
        last_seen_at: None,
    };
    dispatch!(&mut state.db.get().await?, admin::create_device(&row))?;
    created_with(&row, issue(&state, &row)?)
}

pub(super) async fn update_device(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<Uuid>,
    Body(patch): Body<DevicePatch>,
) -> Result<Json<Value>, ApiError> {
    text("platform", patch.platform.as_deref())?;
    one_of("status", patch.status.as_deref(), &DEVICE_STATES)?;
    let change = DeviceChange { platform: patch.platform, name: patch.name, status: patch.status };
    let (row, event_seq) = dispatch!(&mut state.db.get().await?, admin::change_device(Id(id), &change, Time::now()))?;
    delivered(&state, &row, event_seq).await
}

pub(super) async fn device_token(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<Uuid>,
) -> Result<Created, ApiError> {
    let row = dispatch!(&mut state.db.read().await?, admin::device::get(Id(id)))?;
    created_with(&row, issue(&state, &row)?)
}

fn issue(state: &ControlState, device: &Device) -> Result<Value, ApiError> {
    let now = Time::now();
    let life = i64::try_from(state.config.token_ttl.as_secs()).unwrap_or(i64::MAX);
    let token =
        state.issuer.issue(device.id.0, device.user_id.0, now.0.unix_timestamp(), life).map_err(ApiError::internal)?;
    Ok(json!({ "access_token": token, "token_expires_at": now.after(state.config.token_ttl) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_told_apart() {
        assert_eq!(kind_of("a@b.c"), "email");
        assert_eq!(kind_of("+4912345"), "phone");
        assert_eq!(kind_of("0123"), "telegram_id");
    }
}
