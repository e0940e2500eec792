use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, IF_MATCH};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{AssignOutline, GatewayHeartbeat, UsageReports, ValidateDevice};
use crate::control::api::answer::Deleted;
use crate::control::api::error::ApiError;
use crate::control::api::text;
use crate::control::db::{DbConn, Deletable, dispatch};
use crate::control::model::id::{DeviceId, UserId};
use crate::control::model::revision::Expected;
use crate::control::model::state::{DeviceStatus, UserStatus};
use crate::control::model::types::Time;
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

/// An administrator's request, by key, and when it came.
pub(crate) struct Admin {
    pub(crate) state: Arc<ControlState>,
    /// SHA-256 of the key.
    pub(crate) key_hash: String,
    pub(crate) now: Time,
}

impl FromRequestParts<Arc<ControlState>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        let hash = sha256_hex(bearer(parts)?.as_bytes());
        match &state.bootstrap_hash {
            Some(expected) if equal(expected, &hash) => {
                Ok(Self { state: Arc::clone(state), key_hash: hash, now: state.now() })
            }
            _ => Err(ApiError::unauthorized()),
        }
    }
}

impl Admin {
    /// A connection that only reads.
    pub(crate) async fn read(&self) -> Result<DbConn, ApiError> {
        Ok(self.state.db.read().await?)
    }

    /// A connection that may write; it is taken once the request was read.
    pub(crate) async fn write(&self) -> Result<DbConn, ApiError> {
        Ok(self.state.db.get().await?)
    }

    /// Deletes a row and what belongs to it.
    pub(crate) async fn delete(&self, what: Deletable) -> Result<Deleted, ApiError> {
        let deleted = dispatch!(&mut self.write().await?, deletion::delete(what, self.now));
        let deleted = match deleted {
            Ok(deleted) => deleted,
            Err(error) => return Err(self.in_use(what, error.into()).await),
        };
        if deleted.event_seq.is_some() {
            self.state.events.notify();
        }
        if deleted.count == 0 { Err(ApiError::not_found()) } else { Ok(Deleted) }
    }

    /// Names what is in the way of a deletion, if that is what an error means.
    async fn in_use(&self, what: Deletable, error: ApiError) -> ApiError {
        if !error.is_in_use() {
            return error;
        }
        let Ok(mut conn) = self.read().await else { return error };
        match dispatch!(&mut conn, deletion::in_the_way(what)) {
            Ok(Some(obstacle)) => error.because(obstacle.to_string(), obstacle.uuid()),
            Ok(None) | Err(_) => error,
        }
    }
}

/// An error, or what is in the way if that is what it means: the row that has the same name, which a query finds.
macro_rules! existing {
    ($admin:expr, $error:expr, $($path:ident)::+ ( $($argument:expr),* ), $what:expr) => {
        if $error.is_conflict()
            && let Ok(mut conn) = $admin.read().await
            && let Ok(Some(id)) = dispatch!(&mut conn, $($path)::+($($argument),*))
        {
            ApiError::exists($what, id.uuid())
        } else {
            $error
        }
    };
}
pub(crate) use existing;

/// The revisions that a change is meant for (RFC 9110, 13.1.1).
pub(crate) struct IfMatch(pub(crate) Expected);

impl FromRequestParts<Arc<ControlState>> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<ControlState>) -> Result<Self, ApiError> {
        let given: Vec<&str> =
            parts.headers.get_all(IF_MATCH).into_iter().filter_map(|value| value.to_str().ok()).collect();
        if given.is_empty() {
            return Ok(Self(Expected::Any));
        }
        let tags = given.iter().flat_map(|value| value.split(',')).map(str::trim);
        if tags.clone().any(|tag| tag == "*") {
            return Ok(Self(Expected::Any));
        }
        let revision = |tag: &str| tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok();
        Ok(Self(Expected::OneOf(tags.filter_map(revision).collect())))
    }
}

/// A part of a path; nothing has a name with control characters.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<ControlState>> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        if text::has_control_escape(parts.uri.path()) {
            return Err(ApiError::not_found());
        }
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        let axum::extract::Path(value) = read.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// A JSON body that may be absent or null.
pub(crate) struct MaybeBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<ControlState>> for MaybeBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<ControlState>) -> Result<Self, ApiError> {
        let bytes = bytes(request, state).await?;
        let given: Option<T> = if bytes.is_empty() { None } else { parse(&bytes, &[])? };
        Ok(Self(given.unwrap_or_default()))
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

/// A whole body, which is at most `control.body_limit` long.
pub(super) async fn bytes(request: Request, state: &Arc<ControlState>) -> Result<Bytes, ApiError> {
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
    unusable(&error.path().to_string(), reason)
}

/// Names the field that will not do, as serde's messages do.
fn unusable(path: &str, reason: &str) -> ApiError {
    let is_root = path == "." || path.is_empty();
    let field = if is_root { reason.split('`').nth(1).unwrap_or("body") } else { path };
    let code = if reason.starts_with("missing field") {
        "MISSING"
    } else if reason.starts_with("unknown field") {
        "UNKNOWN"
    } else {
        "INVALID"
    };
    ApiError::invalid(field, code, reason)
}

/// Parameters of a query; none has control characters.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<ControlState>> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<ControlState>) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        if let Some(field) = text::suspicious_parameter(query) {
            return Err(ApiError::invalid(field, "INVALID", "must not contain control characters"));
        }
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(pairs)
            .map(Self)
            .map_err(|error| unusable(&error.path().to_string(), &error.inner().to_string()))
    }
}
