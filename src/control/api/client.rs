//! What devices ask for themselves (docs/02, "Client endpoints").

mod account;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromDevice, Path};
use crate::control::db::dispatch;
use crate::control::domain::catalog::Configuration;
use crate::control::model::id::DeviceId;
use crate::control::runtime::ControlState;
use crate::digest::sha256_hex;
use account::{Account, AccountDevice, Facts, Spent};

const CONFIG_TYPE: &str = "httvps-config+jwt";
const NAME_MAX: usize = 255;

/// Routes below `/api/v1/client`.
pub(super) fn routes() -> OpenApiRouter<Arc<ControlState>> {
    OpenApiRouter::new().routes(routes!(config)).routes(routes!(account)).routes(routes!(revoke, rename))
}

/// The signed configuration of a client
///
/// A compact JWS; `If-None-Match` with its `ETag` is answered with 304.
#[utoipa::path(get, path = "/config", tag = "clients' calls", operation_id = "get_configuration",
    responses((status = OK, content_type = "application/jose", body = String), (status = NOT_MODIFIED)))]
async fn config(
    State(state): State<Arc<ControlState>>,
    FromDevice { user, .. }: FromDevice,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let now = state.now();
    let offer = dispatch!(&mut state.db.read().await?, client::offer(user, now))?;
    let catalog = offer.shown_to(user, state.client_config.gateways_per_region);
    let configuration = Configuration::new(&catalog, &state.client_config, now);
    let body = state.issuer.sign_compact(&configuration, CONFIG_TYPE).map_err(ApiError::internal)?;
    let etag = format!("\"{:.32}\"", sha256_hex(body.as_bytes()));
    if is_known(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag), (CACHE_CONTROL, "private".to_owned())]).into_response());
    }
    let described =
        [(CONTENT_TYPE, "application/jose".to_owned()), (ETAG, etag), (CACHE_CONTROL, "private".to_owned())];
    Ok((StatusCode::OK, described, body).into_response())
}

/// Whether `If-None-Match` names a tag (RFC 9110, 13.1.2).
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).any(|tag| {
        let strong = tag.strip_prefix("W/").unwrap_or(tag);
        strong == etag || tag == "*"
    })
}

/// The account of a device's user
#[utoipa::path(get, path = "/account", tag = "clients' calls", operation_id = "get_account",
    responses((status = OK, body = Account)))]
async fn account(
    State(state): State<Arc<ControlState>>,
    FromDevice { user, device }: FromDevice,
) -> Result<Json<Account>, ApiError> {
    let now = state.now();
    let mut conn = state.db.read().await?;
    let user = dispatch!(&mut conn, admin::user::get(user))?;
    let found = dispatch!(&mut conn, admission::subscription(user.id, now))?;
    let paid = found.as_ref().map(|(subscription, plan)| (subscription, plan));
    let spent = match paid.filter(|(subscription, plan)| subscription.serves(plan, now)) {
        Some((subscription, plan)) => {
            let period = plan.period(subscription, now, &state.rules.calendar);
            let counters = dispatch!(&mut conn, period::counters(subscription.id, period.start))?;
            Some(Spent { period, counters })
        }
        None => None,
    };
    let devices = dispatch!(&mut conn, client::devices_of(user.id))?;
    Ok(Json(Account::from(Facts { user: &user, paid, spent, devices: &devices, device, now })))
}

/// Revokes a device of the same user
#[utoipa::path(delete, path = "/devices/{id}", tag = "clients' calls", operation_id = "revoke_own_device",
    params(("id" = DeviceId, Path)), responses((status = NO_CONTENT)))]
async fn revoke(
    State(state): State<Arc<ControlState>>,
    FromDevice { user, .. }: FromDevice,
    Path(id): Path<DeviceId>,
) -> Result<StatusCode, ApiError> {
    dispatch!(&mut state.db.get().await?, client::revoke_device(user, id, state.now()))?;
    state.events.notify();
    Ok(StatusCode::NO_CONTENT)
}

/// What a device is to be called.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(examples(json!({ "name": "Ann's phone" })))]
struct Rename {
    #[schema(max_length = 255)]
    name: String,
}

/// Renames a device of the same user
#[utoipa::path(patch, path = "/devices/{id}", tag = "clients' calls", operation_id = "rename_own_device",
    params(("id" = DeviceId, Path)), request_body = Rename, responses((status = OK, body = AccountDevice)))]
async fn rename(
    State(state): State<Arc<ControlState>>,
    FromDevice { user, device }: FromDevice,
    Path(id): Path<DeviceId>,
    Body(change): Body<Rename>,
) -> Result<Json<AccountDevice>, ApiError> {
    let name = change.name.trim();
    if name.len() > NAME_MAX {
        return Err(ApiError::invalid("name", "TOO_LONG", "at most 255 bytes"));
    }
    let renamed = dispatch!(&mut state.db.get().await?, client::rename_device(user, id, name))?;
    Ok(Json(AccountDevice::of(&renamed, device)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_tags() {
        let knows = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, value.parse().unwrap());
            is_known(&headers, "\"ab\"")
        };
        assert!(knows("\"ab\"") && knows("\"x\", W/\"ab\"") && knows("*"));
        assert!(!knows("ab") && !knows("\"abc\""));
        assert!(!is_known(&HeaderMap::new(), "\"ab\""));
    }
}
