//! What devices ask for themselves (docs/02, "Client endpoints").

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromDevice};
use crate::control::db::dispatch;
use crate::control::domain::catalog::Configuration;
use crate::control::model::calendar::{Period, days};
use crate::control::model::id::DeviceId;
use crate::control::model::state::SubscriptionState;
use crate::control::model::types::Time;
use crate::control::model::{Counters, Device, Plan, Subscription};
use crate::control::runtime::ControlState;
use crate::digest::sha256_hex;

const CONFIG_TYPE: &str = "httvps-config+jwt";
const NAME_MAX: usize = 255;

/// Routes below `/api/v1/client`.
pub(in crate::control) fn routes() -> Router<Arc<ControlState>> {
    Router::new()
        .route("/config", get(config))
        .route("/account", get(account))
        .route("/devices/{id}", delete(revoke).patch(rename))
}

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

async fn account(
    State(state): State<Arc<ControlState>>,
    FromDevice { user, device }: FromDevice,
) -> Result<Json<Value>, ApiError> {
    let now = state.now();
    let mut conn = state.db.read().await?;
    let user = dispatch!(&mut conn, admin::user::get(user))?;
    let found = dispatch!(&mut conn, admission::subscription(user.id, now))?;
    let traffic = match &found {
        Some((subscription, plan)) if subscription.serves(plan, now) => {
            let period = plan.period(subscription, now, &state.rules.calendar);
            let counters = dispatch!(&mut conn, period::counters(subscription.id, period.start))?;
            Some(traffic_view(plan, period, counters))
        }
        _ => None,
    };
    let devices = dispatch!(&mut conn, client::devices_of(user.id))?;
    let plan = found.as_ref().map(|(_, plan)| plan);
    Ok(Json(json!({
        "user": { "id": user.id, "status": user.status },
        "subscription": found.as_ref().map(|(subscription, plan)| subscription_view(subscription, plan, now)),
        "traffic": traffic,
        "limits": {
            "max_devices": plan.and_then(|plan| plan.max_devices),
            "max_sessions": plan.and_then(|plan| plan.max_sessions),
            "rate_limit_mbps": plan.and_then(|plan| plan.rate_limit_mbps),
        },
        "devices": devices.iter().map(|other| device_view(other, device)).collect::<Vec<_>>(),
    })))
}

fn subscription_view(subscription: &Subscription, plan: &Plan, now: Time) -> Value {
    let state = subscription.state(plan, now);
    let days_left = if state == SubscriptionState::Cancelled { 0 } else { days_left(subscription.valid_until, now) };
    json!({
        "id": subscription.id,
        "plan": plan.name,
        "state": state,
        "starts_at": subscription.starts_at,
        "valid_until": subscription.valid_until,
        "days_left": days_left,
    })
}

/// Days until a moment, a begun one counts.
fn days_left(until: Time, now: Time) -> u64 {
    (until.0 - now.0).whole_seconds().max(0).unsigned_abs().div_ceil(days(1).as_secs())
}

fn traffic_view(plan: &Plan, period: Period, counters: Counters) -> Value {
    let used = counters.used();
    let limit = plan.limit_bytes().map(|limit| limit.saturating_add(counters.bonus()));
    json!({
        "limit_bytes": limit,
        "used_bytes": used,
        "remaining_bytes": limit.map(|limit| limit.saturating_sub(used)),
        "period_start": period.start,
        "period_end": period.end,
    })
}

fn device_view(device: &Device, this: DeviceId) -> Value {
    json!({
        "id": device.id,
        "name": device.name,
        "platform": device.platform,
        "status": device.status,
        "created_at": device.created_at,
        "last_seen_at": device.last_seen_at,
        "this": device.id == this,
    })
}

async fn revoke(
    State(state): State<Arc<ControlState>>,
    FromDevice { user, .. }: FromDevice,
    Path(id): Path<DeviceId>,
) -> Result<StatusCode, ApiError> {
    dispatch!(&mut state.db.get().await?, client::revoke_device(user, id, state.now()))?;
    state.events.notify();
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct Rename {
    name: String,
}

async fn rename(
    State(state): State<Arc<ControlState>>,
    FromDevice { user, device }: FromDevice,
    Path(id): Path<DeviceId>,
    Body(change): Body<Rename>,
) -> Result<Json<Value>, ApiError> {
    let name = change.name.trim();
    if name.len() > NAME_MAX {
        return Err(ApiError::invalid("name", "TOO_LONG", "at most 255 bytes"));
    }
    let renamed = dispatch!(&mut state.db.get().await?, client::rename_device(user, id, name))?;
    Ok(Json(device_view(&renamed, device)))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn begun_days_count() {
        let until = Time(datetime!(2026-12-05 10:00 UTC));
        for (now, left) in [
            (datetime!(2026-11-05 10:00 UTC), 30),
            (datetime!(2026-11-05 10:00:01 UTC), 30),
            (datetime!(2026-12-05 9:59:59 UTC), 1),
            (datetime!(2026-12-05 10:00 UTC), 0),
            (datetime!(2027-01-01 0:00 UTC), 0),
        ] {
            assert_eq!(days_left(until, Time(now)), left, "{now}");
        }
    }

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
