use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;

use super::admin::text;
use crate::api::{Enroll, Refresh, Tokens, kept_version};
use crate::control::api::error::ApiError;
use crate::control::api::extract::Body;
use crate::control::db::dispatch;
use crate::control::domain::enrollment::{Enrolling, Granted, Refreshing, Refused, canonical};
use crate::control::model::id::DeviceId;
use crate::control::model::types::Time;
use crate::control::runtime::ControlState;

/// Trades an activation code for a device with tokens
#[utoipa::path(post, path = "/auth/enroll", tag = "tokens", operation_id = "enroll_device", request_body = Enroll,
    responses((status = OK, body = Tokens)))]
pub(in crate::control) async fn enroll(
    State(state): State<Arc<ControlState>>,
    Body(request): Body<Enroll>,
) -> Result<Json<Tokens>, ApiError> {
    text("device_uuid", Some(&request.device_uuid))?;
    text("platform", Some(&request.platform))?;
    text("name", Some(request.name.as_str()).filter(|name| !name.is_empty()))?;
    let now = state.now();
    let wish = Enrolling {
        code: canonical(&request.code).ok_or(Refused::Code)?,
        device_uuid: request.device_uuid,
        platform: request.platform,
        name: request.name,
        client_version: request.client_version.as_deref().map(kept_version),
        replace: request.replace.map(DeviceId::from),
        now,
        refresh_ttl: state.enrollment.refresh_ttl,
        repeat_within: state.enrollment.repeat_within,
    };
    let granted = dispatch!(&mut state.db.get().await?, enrollment::enroll(&wish, &state.deriver))??;
    if wish.replace.is_some() {
        state.events.notify();
    }
    tokens(&state, granted, now)
}

/// Trades a refresh token for its successor and an access token
#[utoipa::path(post, path = "/auth/refresh", tag = "tokens", operation_id = "refresh_tokens", request_body = Refresh,
    responses((status = OK, body = Tokens)))]
pub(in crate::control) async fn refresh(
    State(state): State<Arc<ControlState>>,
    Body(request): Body<Refresh>,
) -> Result<Json<Tokens>, ApiError> {
    let now = state.now();
    let wish = Refreshing {
        token: request.refresh_token,
        device_uuid: request.device_uuid,
        now,
        refresh_ttl: state.enrollment.refresh_ttl,
        repeat_within: state.enrollment.repeat_within,
    };
    let outcome = dispatch!(&mut state.db.get().await?, enrollment::refresh(&wish, &state.deriver))?;
    if let Err(Refused::Reused(device)) = &outcome {
        tracing::warn!(%device, "a refresh token was used twice; its family is revoked");
    }
    tokens(&state, outcome?, now)
}

/// A repeated answer is the same: the access token is as old as the refresh token.
fn tokens(state: &ControlState, granted: Granted, now: Time) -> Result<Json<Tokens>, ApiError> {
    let life = state.enrollment.access_ttl;
    let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let issued_at = granted.issued_at.0.unix_timestamp();
    let access_token = state
        .issuer
        .issue(granted.device.uuid(), granted.user.uuid(), issued_at, seconds)
        .map_err(ApiError::internal)?;
    Ok(Json(Tokens {
        device_id: granted.device.uuid(),
        access_token,
        token_type: "Bearer".into(),
        expires_in: left(granted.issued_at.after(Duration::from_secs(life.as_secs())), now),
        refresh_token: granted.token,
        refresh_expires_in: left(granted.expires_at, now),
    }))
}

fn left(until: Time, now: Time) -> u64 {
    u64::try_from((until.0 - now.0).whole_seconds()).unwrap_or(0)
}
