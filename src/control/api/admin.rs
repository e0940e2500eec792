//! Administration: one file a resource, the same five verbs each.

mod codes;
mod endpoints;
mod gateways;
mod nodes;
mod plans;
mod regions;
mod sessions;
mod subscriptions;
mod users;
mod why;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::control::api::error::ApiError;
use crate::control::api::extract::{FromAdmin, Query};
use crate::control::db::{DbConn, Deletable, dispatch};
use crate::control::model::id::{DeviceId, GatewayId, RegionId, UserId};
use crate::control::runtime::ControlState;
use crate::net::host;

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<Uuid>,
    limit: Option<u32>,
    user_id: Option<UserId>,
    device_id: Option<DeviceId>,
    region_id: Option<RegionId>,
    gateway_id: Option<GatewayId>,
}

#[derive(Debug, Serialize)]
struct Listed {
    items: Vec<Value>,
    next: Option<Uuid>,
}

impl Page {
    fn limit(&self, state: &ControlState) -> i64 {
        i64::from(self.limit.unwrap_or(100).clamp(1, state.config.page_max))
    }

    /// The id behind which the page begins.
    fn after<I: From<Uuid>>(&self) -> Option<I> {
        self.after.map(I::from)
    }
}

fn listed<T: Serialize, I: Into<Uuid>>(rows: &[T], id: impl Fn(&T) -> I, limit: i64) -> Result<Json<Listed>, ApiError> {
    let full = i64::try_from(rows.len()).is_ok_and(|count| count >= limit);
    let next = if full { rows.last().map(|row| id(row).into()) } else { None };
    let items = rows.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(ApiError::internal)?;
    Ok(Json(Listed { items, next }))
}

type Created = (StatusCode, Json<Value>);

fn created(row: &impl Serialize) -> Result<Created, ApiError> {
    Ok((StatusCode::CREATED, Json(serde_json::to_value(row).map_err(ApiError::internal)?)))
}

/// A row with fields that are shown only now.
fn created_with(row: &impl Serialize, more: Value) -> Result<Created, ApiError> {
    let mut value = serde_json::to_value(row).map_err(ApiError::internal)?;
    if let (Value::Object(fields), Value::Object(more)) = (&mut value, more) {
        fields.extend(more);
    }
    Ok((StatusCode::CREATED, Json(value)))
}

/// Refuses a text that is none of the allowed ones.
fn one_of(field: &str, value: Option<&str>, allowed: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !allowed.contains(&value) => {
            Err(ApiError::invalid(field, "INVALID", format!("must be one of {}", allowed.join(", "))))
        }
        _ => Ok(()),
    }
}

/// Refuses a text that is empty or too long.
pub(super) fn text(field: &str, value: Option<&str>) -> Result<(), ApiError> {
    match value {
        Some(value) if value.trim().is_empty() => Err(ApiError::invalid(field, "INVALID", "must not be empty")),
        Some(value) if value.contains(char::is_control) => {
            Err(ApiError::invalid(field, "INVALID", "must not contain control characters"))
        }
        Some(value) if value.len() > 255 => Err(ApiError::invalid(field, "TOO_LONG", "at most 255 bytes")),
        _ => Ok(()),
    }
}

/// A host in its one spelling.
fn hostname(field: &str, value: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let canonical = host::canonical(&value);
    canonical.map(Some).ok_or_else(|| ApiError::invalid(field, "INVALID", host::EXPECTED))
}

/// The region of a code.
async fn region(conn: &mut DbConn, field: &str, code: &str) -> Result<RegionId, ApiError> {
    let region = dispatch!(conn, admin::region_by_code(code))?;
    let region = region.ok_or_else(|| ApiError::invalid(field, "UNKNOWN", format!("there is no region {code:?}")))?;
    Ok(region.id)
}

/// A row with how far the news of its change has come, if there is any.
async fn delivered(
    state: &ControlState,
    row: &impl Serialize,
    event_seq: Option<i64>,
) -> Result<Json<Value>, ApiError> {
    let since = Instant::now();
    let Some(seq) = event_seq else { return serde_json::to_value(row).map(Json).map_err(ApiError::internal) };
    let delivery = state.events.delivery(&state.db, seq, since).await;
    if delivery.acked < delivery.of {
        state.metrics.unacked.inc();
    } else if delivery.of > 0 {
        state.metrics.revocation.observe(since.elapsed().as_secs_f64());
    }
    let (_, json) = created_with(row, json!({ "delivery": delivery }))?;
    Ok(json)
}

async fn delete(state: &ControlState, what: Deletable) -> Result<StatusCode, ApiError> {
    let (count, event_seq) = dispatch!(&mut state.db.get().await?, deletion::delete(what, state.now()))?;
    if event_seq.is_some() {
        state.events.notify();
    }
    if count == 0 { Err(ApiError::not_found()) } else { Ok(StatusCode::NO_CONTENT) }
}

fn deleting<I: DeserializeOwned + Send + 'static>(what: fn(I) -> Deletable) -> MethodRouter<Arc<ControlState>> {
    axum::routing::delete(move |_: FromAdmin, State(state): State<Arc<ControlState>>, Path(id): Path<I>| async move {
        delete(&state, what(id)).await
    })
}

/// Routes below `/api/v1/admin`.
pub(in crate::control) fn routes() -> Router<Arc<ControlState>> {
    Router::new()
        .route("/users", get(users::list).post(users::create))
        .route("/users/{id}", get(users::get).patch(users::update).merge(deleting(Deletable::User)))
        .route("/devices", get(users::list_devices).post(users::create_device))
        .route("/devices/{id}", get(users::get_device).patch(users::update_device).merge(deleting(Deletable::Device)))
        .route("/devices/{id}/token", post(users::device_token))
        .route("/codes", get(codes::list).post(codes::create))
        .route("/codes/{id}", get(codes::get).merge(deleting(Deletable::Code)))
        .route("/plans", get(plans::list).post(plans::create))
        .route("/plans/{id}", get(plans::get).patch(plans::update).merge(deleting(Deletable::Plan)))
        .route("/devices/{id}/why", get(why::device))
        .route("/refusals", get(why::refusals))
        .route("/subscriptions", get(subscriptions::list).post(subscriptions::create))
        .route(
            "/subscriptions/{id}",
            get(subscriptions::get).patch(subscriptions::update).merge(deleting(Deletable::Subscription)),
        )
        .route("/subscriptions/{id}/renew", post(subscriptions::renew))
        .route("/subscriptions/{id}/top-up", post(subscriptions::top_up))
        .route("/subscriptions/{id}/cancel", post(subscriptions::cancel))
        .route("/subscriptions/{id}/change-plan", post(subscriptions::change_plan))
        .route("/regions", get(regions::list).post(regions::create))
        .route("/regions/{id}", get(regions::get).patch(regions::update).merge(deleting(Deletable::Region)))
        .route("/endpoints", get(endpoints::list).post(endpoints::create))
        .route("/endpoints/{id}", get(endpoints::get).patch(endpoints::update).merge(deleting(Deletable::Endpoint)))
        .route("/nodes", get(nodes::list).post(nodes::create))
        .route("/nodes/{id}", get(nodes::get).patch(nodes::update).merge(deleting(Deletable::Node)))
        .route("/nodes/import", post(nodes::import))
        .route("/nodes/{id}/health", get(nodes::health))
        .route("/nodes/{id}/password", post(nodes::password))
        .route("/gateways/invite", post(gateways::invite))
        .route("/gateways/{id}/invite", post(gateways::invite_again))
        .route("/gateways/{id}/revoke", post(gateways::revoke))
        .route("/gateways", get(gateways::list).post(gateways::create))
        .route("/gateways/{id}", get(gateways::get).patch(gateways::update).merge(deleting(Deletable::Gateway)))
        .route("/gateways/{id}/token", post(gateways::rotate_token))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{id}", get(sessions::get).delete(sessions::kill))
}

type Paged = Query<Page>;
