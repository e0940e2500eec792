use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::text;
use crate::control::api::answer::{Created, Deleted, Delivered, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, IfMatch, Path, Query, existing};
use crate::control::api::page::{Page, pages, paging};
use crate::control::db::{Deletable, dispatch};
use crate::control::model::filter::DeviceFilter;
use crate::control::model::id::{DeviceId, UserId};
use crate::control::model::sort::DeviceSort;
use crate::control::model::state::DeviceStatus;
use crate::control::model::types::Time;
use crate::control::model::{Device, DeviceChange};
use crate::control::runtime::ControlState;

const UNKNOWN_PLATFORM: &str = "unknown";

/// An installation of a client app.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Device)]
pub(in crate::control::api) struct DeviceView {
    id: DeviceId,
    user_id: UserId,
    /// The installation's own id.
    device_uuid: String,
    #[schema(examples("android"))]
    platform: String,
    /// What its user calls it.
    name: String,
    client_version: Option<String>,
    status: DeviceStatus,
    created_at: Time,
    last_seen_at: Option<Time>,
    /// Counts changes; the `ETag` is made of it.
    revision: i32,
}

impl From<Device> for DeviceView {
    fn from(row: Device) -> Self {
        Self {
            id: row.id,
            user_id: row.user_id,
            device_uuid: row.device_uuid,
            platform: row.platform,
            name: row.name,
            client_version: row.client_version,
            status: row.status,
            created_at: row.created_at,
            last_seen_at: row.last_seen_at,
            revision: row.revision,
        }
    }
}

impl View for DeviceView {
    fn revision(&self) -> Option<i32> {
        Some(self.revision)
    }
}

/// A device with an access token, which is shown only now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeviceWithToken {
    #[serde(flatten)]
    device: DeviceView,
    access_token: String,
    token_expires_at: Time,
}

impl View for DeviceWithToken {
    fn revision(&self) -> Option<i32> {
        self.device.revision()
    }
}

/// A device to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "user_id": "01997b5e-7c00-7000-8000-000000000001", "platform": "android", "name": "Phone" })))]
pub(super) struct NewDevice {
    user_id: UserId,
    /// The installation's own id; a fresh one if absent.
    #[schema(min_length = 1, max_length = 255)]
    device_uuid: Option<String>,
    #[schema(min_length = 1, max_length = 255)]
    platform: Option<String>,
    #[schema(max_length = 255)]
    name: Option<String>,
}

/// What is to be changed of a device.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "status": "revoked" })))]
pub(super) struct DevicePatch {
    #[schema(min_length = 1, max_length = 255)]
    platform: Option<String>,
    #[schema(max_length = 255)]
    name: Option<String>,
    status: Option<DeviceStatus>,
}

/// Which devices.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeviceQuery {
    user_id: Option<UserId>,
    status: Option<DeviceStatus>,
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

pages! { DeviceQuery => DeviceSort }

fn issue(state: &ControlState, device: Device, now: Time) -> Result<DeviceWithToken, ApiError> {
    let life = i64::try_from(state.config.token_ttl.as_secs()).unwrap_or(i64::MAX);
    let access_token = state
        .issuer
        .issue(device.id.uuid(), device.user_id.uuid(), now.0.unix_timestamp(), life)
        .map_err(ApiError::internal)?;
    Ok(DeviceWithToken { device: device.into(), access_token, token_expires_at: now.after(state.config.token_ttl) })
}

/// Names the device that an installation has already, if that is what an error means.
async fn taken(admin: &Admin, error: ApiError, row: &Device) -> ApiError {
    existing!(admin, error, names::device(row), "the user has a device with this `device_uuid`")
}

/// Lists devices
#[utoipa::path(get, path = "/devices", tag = "devices", operation_id = "list_devices", params(DeviceQuery),
    responses((status = OK, body = Page<DeviceView>)))]
pub(super) async fn list(admin: Admin, Query(query): Query<DeviceQuery>) -> Result<Json<Page<DeviceView>>, ApiError> {
    let paging = paging(&query)?;
    let filter = DeviceFilter { user: query.user_id, status: query.status };
    let found = dispatch!(&mut admin.read().await?, lists::devices(&filter, &paging))?;
    Page::of(found, &paging, DeviceView::from)
}

/// Shows a device
#[utoipa::path(get, path = "/devices/{id}", tag = "devices", operation_id = "get_device",
    params(("id" = DeviceId, Path)), responses((status = OK, body = DeviceView)))]
pub(super) async fn get(admin: Admin, Path(id): Path<DeviceId>) -> Result<One<DeviceView>, ApiError> {
    Ok(One(dispatch!(&mut admin.read().await?, admin::device::get(id))?.into()))
}

/// Makes a device
///
/// With an access token, which is shown only now.
#[utoipa::path(post, path = "/devices", tag = "devices", operation_id = "create_device", request_body = NewDevice,
    responses((status = CREATED, body = DeviceWithToken)))]
pub(super) async fn create(admin: Admin, Body(new): Body<NewDevice>) -> Result<Created<DeviceWithToken>, ApiError> {
    text("device_uuid", new.device_uuid.as_deref())?;
    text("platform", new.platform.as_deref())?;
    text("name", new.name.as_deref().filter(|name| !name.is_empty()))?;
    let row = Device {
        id: DeviceId::fresh(),
        user_id: new.user_id,
        device_uuid: new.device_uuid.unwrap_or_else(|| Uuid::new_v4().to_string()),
        platform: new.platform.unwrap_or_else(|| UNKNOWN_PLATFORM.into()),
        name: new.name.unwrap_or_default(),
        client_version: None,
        status: DeviceStatus::Active,
        created_at: admin.now,
        last_seen_at: None,
        revision: 0,
    };
    let made = dispatch!(&mut admin.write().await?, admin::create_device(&row));
    match made {
        Ok(()) => issue(&admin.state, row, admin.now).map(Created),
        Err(error) => Err(taken(&admin, ApiError::from(error).unknown("user_id", "user"), &row).await),
    }
}

/// Changes a device
///
/// One that is revoked loses its tunnels at once, and its refresh tokens.
#[utoipa::path(patch, path = "/devices/{id}", tag = "devices", operation_id = "update_device",
    params(("id" = DeviceId, Path)), request_body = DevicePatch, responses((status = OK, body = Delivered<DeviceView>)))]
pub(super) async fn update(
    admin: Admin,
    Path(id): Path<DeviceId>,
    IfMatch(expected): IfMatch,
    Body(patch): Body<DevicePatch>,
) -> Result<Delivered<DeviceView>, ApiError> {
    text("platform", patch.platform.as_deref())?;
    text("name", patch.name.as_deref().filter(|name| !name.is_empty()))?;
    let change = DeviceChange { platform: patch.platform, name: patch.name, status: patch.status };
    let changed = dispatch!(&mut admin.write().await?, admin::change_device(id, &change, &expected, admin.now))?;
    Ok(Delivered::of(&admin.state, changed.row.into(), changed.event_seq).await)
}

/// Deletes a device
///
/// Its tunnels end at once.
#[utoipa::path(delete, path = "/devices/{id}", tag = "devices", operation_id = "delete_device",
    params(("id" = DeviceId, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(id): Path<DeviceId>) -> Result<Deleted, ApiError> {
    admin.delete(Deletable::Device(id)).await
}

/// Issues another access token of a device
#[utoipa::path(post, path = "/devices/{id}/token", tag = "devices", operation_id = "issue_device_token",
    params(("id" = DeviceId, Path)), responses((status = CREATED, body = DeviceWithToken)))]
pub(super) async fn token(admin: Admin, Path(id): Path<DeviceId>) -> Result<Created<DeviceWithToken>, ApiError> {
    let row = dispatch!(&mut admin.read().await?, admin::device::get(id))?;
    issue(&admin.state, row, admin.now).map(Created)
}
