//! Administration: one file a resource, the same five verbs each.

mod codes;
mod devices;
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

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::control::api::error::ApiError;
use crate::control::runtime::ControlState;
use crate::net::host;

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

/// Routes below `/api/v1/admin`.
pub(super) fn routes() -> OpenApiRouter<Arc<ControlState>> {
    OpenApiRouter::new()
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::get, users::update, users::delete))
        .routes(routes!(devices::list, devices::create))
        .routes(routes!(devices::get, devices::update, devices::delete))
        .routes(routes!(devices::token))
        .routes(routes!(why::device))
        .routes(routes!(why::refusals))
        .routes(routes!(codes::list, codes::create))
        .routes(routes!(codes::get, codes::delete))
        .routes(routes!(plans::list, plans::create))
        .routes(routes!(plans::get, plans::update, plans::delete))
        .routes(routes!(subscriptions::list, subscriptions::create))
        .routes(routes!(subscriptions::get, subscriptions::update, subscriptions::delete))
        .routes(routes!(subscriptions::renew))
        .routes(routes!(subscriptions::top_up))
        .routes(routes!(subscriptions::cancel))
        .routes(routes!(subscriptions::change_plan))
        .routes(routes!(regions::list, regions::create))
        .routes(routes!(regions::get, regions::update, regions::delete))
        .routes(routes!(endpoints::list, endpoints::create))
        .routes(routes!(endpoints::get, endpoints::update, endpoints::delete))
        .routes(routes!(nodes::list, nodes::create))
        .routes(routes!(nodes::get, nodes::update, nodes::delete))
        .routes(routes!(nodes::import))
        .routes(routes!(nodes::health))
        .routes(routes!(nodes::password))
        .routes(routes!(gateways::list, gateways::create))
        .routes(routes!(gateways::get, gateways::update, gateways::delete))
        .routes(routes!(gateways::invite))
        .routes(routes!(gateways::invite_again))
        .routes(routes!(gateways::rotate_token))
        .routes(routes!(gateways::revoke))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::get, sessions::kill))
}
