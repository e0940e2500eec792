use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{AssignOutline, GatewayHeartbeat, UsageReports, ValidateDevice};
use crate::control::api::error::ApiError;
use crate::control::api::text;
use crate::control::db::dispatch;
use crate::control::model::id::{DeviceId, UserId};
use crate::control::model::state::{DeviceStatus, UserStatus};
use crate::control::runtime::ControlState;
use crate::control::runtime::gateway_cache::Known;
use crate::digest::{equal, sha256_hex};
use crate::frame::SessionCode;

fn bearer(parts: &Parts) -> Result<&str, ApiError> {
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = header.and_then(|text| text.split_once(' ')).ok_or_else(ApiError::unauthorized)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(ApiError::unauthorized());
    }
    Ok(token.trim())
}

/// A request of a gateway, by its token.
pub(crate) struct FromGateway(pub(crate) Arc<Known>);

impl FromRequestParts<Arc<ControlState>> for FromGateway {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        let hash = sha256_hex(bearer(parts)?.as_bytes());
        let found = state.gateways.find(&state.db, &hash).await?;
        found.map(Self).ok_or_else(ApiError::unauthorized)
    }
}

/// A request of a device, by its access token; the device is active and its user not banned.
pub(crate) struct FromDevice {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
}

impl FromRequestParts<Arc<ControlState>> for FromDevice {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        let claims = state.verifier.verify(bearer(parts)?, state.clock.now()).map_err(|_| ApiError::unauthorized())?;
        let (device, user) = (DeviceId::from(claims.sub), UserId::from(claims.uid));
        let found = dispatch!(&mut state.db.read().await?, client::statuses(device, user))?;
        match found {
            None => Err(ApiError::unauthorized()),
            Some((_, UserStatus::Banned)) => Err(ApiError::refused(SessionCode::UserBanned)),
            Some((DeviceStatus::Active, _)) => Ok(Self { user, device }),
            Some(_) => Err(ApiError::refused(SessionCode::DeviceBanned)),
        }
    }
}

/// A request of an administrator, by his key.
pub(crate) struct FromAdmin;

impl FromRequestParts<Arc<ControlState>> for FromAdmin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        let hash = sha256_hex(bearer(parts)?.as_bytes());
        match &state.bootstrap_hash {
            Some(expected) if equal(expected, &hash) => Ok(Self),
            _ => Err(ApiError::unauthorized()),
        }
    }
}

/// A JSON body; the error names the field. No text in it has control characters.
pub(crate) struct Body<T>(pub(crate) T);

/// As [`Body`]; what clients said to the gateway is cleaned, for their words must not stop it.
pub(crate) struct Relayed<T>(pub(crate) T);

/// A gateway's request with words of clients in it.
pub(crate) trait Quoting: DeserializeOwned {
    /// The fields that clients fill.
    const QUOTED: &'static [&'static str];
}

impl Quoting for ValidateDevice {
    const QUOTED: &'static [&'static str] = &["region", "client_version", "platform", "support_id", "access_token"];
}

impl Quoting for AssignOutline {
    const QUOTED: &'static [&'static str] = &["region", "access_token"];
}

impl Quoting for GatewayHeartbeat {
    const QUOTED: &'static [&'static str] = &["refusals"];
}

impl Quoting for UsageReports {
    const QUOTED: &'static [&'static str] = &["access_token"];
}

impl<T: DeserializeOwned> FromRequest<Arc<ControlState>> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        parse(&bytes(request, state).await?, &[]).map(Self)
    }
}

impl<T: Quoting> FromRequest<Arc<ControlState>> for Relayed<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        parse(&bytes(request, state).await?, T::QUOTED).map(Self)
    }
}

async fn bytes(request: Request, state: &Arc<ControlState>) -> Result<Bytes, ApiError> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| ApiError { status: rejection.status(), ..ApiError::bad_request(rejection.body_text()) })
}

/// A value from JSON without control characters; those below `quoted` fields are replaced.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8], quoted: &[&str]) -> Result<T, ApiError> {
    if !text::is_suspicious(json) {
        return serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json))
            .map_err(|error| unreadable(&error));
    }
    let mut value: Value =
        serde_json::from_slice(json).map_err(|error| ApiError::bad_request(format!("not JSON: {error}")))?;
    text::check(&mut value, quoted).map_err(|path| {
        let field = if path.is_empty() { "body" } else { &path };
        ApiError::invalid(field, "INVALID", "must not contain control characters")
    })?;
    serde_path_to_error::deserialize(value).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let reason = error.inner().to_string();
    if error.inner().is_syntax() || error.inner().is_eof() {
        return ApiError::bad_request(format!("not JSON: {reason}"));
    }
    let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
    let quoted = reason.split('`').nth(1).unwrap_or("body").to_owned();
    let path = error.path().to_string();
    let is_root = path == "." || path.is_empty();
    let field = if is_root { quoted } else { path };
    let code = if reason.starts_with("missing field") {
        "MISSING"
    } else if reason.starts_with("unknown field") {
        "UNKNOWN"
    } else {
        "INVALID"
    };
    ApiError::invalid(&field, code, reason)
}

/// Parameters of a query; none has control characters.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<ControlState>> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        if let Some(field) = parts.uri.query().and_then(text::suspicious_parameter) {
            return Err(ApiError::invalid(field, "INVALID", "must not contain control characters"));
        }
        let read = axum::extract::Query::from_request_parts(parts, state).await;
        let axum::extract::Query(value) = read.map_err(|rejection| ApiError {
            status: rejection.status(),
            ..ApiError::bad_request(rejection.body_text())
        })?;
        Ok(Self(value))
    }
}
