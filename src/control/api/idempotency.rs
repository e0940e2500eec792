//! Requests that may be repeated: `Idempotency-Key` (docs/02, "Repeating a request").

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::extract::{Admin, bytes};
use crate::control::db::dispatch;
use crate::control::model::{IdempotentRequest, StoredAnswer};
use crate::control::runtime::ControlState;
use crate::digest::sha256_hex;

pub(super) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
pub(super) const LONGEST_KEY: usize = 255;
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Carries out an administrator's request with an `Idempotency-Key` once; its repetitions get the first one's answer.
pub(super) async fn once(State(state): State<Arc<ControlState>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let may_be_repeated = request.method() == Method::POST
        && request.headers().contains_key(KEY)
        && route.is_some_and(|route| route.as_str().starts_with("/api/v1/admin/"));
    if !may_be_repeated {
        return next.run(request).await;
    }
    answer(&state, request, next).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(state: &Arc<ControlState>, request: Request, next: Next) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let admin = Admin::from_request_parts(&mut parts, state).await?;
    let key = key(&parts.headers)?;
    let named = format!("{}\n{}\n{}\n{key}", admin.key_hash, parts.method, parts.uri.path());
    let body = bytes(Request::from_parts(parts.clone(), body), state).await?;
    let row = IdempotentRequest {
        key_hash: sha256_hex(named.as_bytes()),
        fingerprint: sha256_hex(&body),
        answer: StoredAnswer::default(),
        created_at: admin.now,
    };
    let is_first = dispatch!(&mut admin.write().await?, idempotency::claim(&row))?;
    if !is_first {
        let first = dispatch!(&mut admin.read().await?, idempotency::find(&row.key_hash))?;
        return first.map_or_else(|| Err(in_progress()), |first| repeated(&admin, &row, first));
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if response.status().is_success() {
        return finish(&admin, &row.key_hash, response).await;
    }
    let is_unsure = response.extensions().get::<ApiError>().is_some_and(|error| error.is_unsure);
    if !is_unsure {
        release(&admin, &row.key_hash).await;
    }
    Ok(response)
}

/// The one key among the headers.
fn key(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut given = headers.get_all(KEY).iter();
    let key = given.next().and_then(|value| value.to_str().ok()).filter(|_| given.next().is_none());
    key.filter(|key| (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| {
            let detail = format!("one header of 1 to {LONGEST_KEY} visible ASCII characters");
            ApiError::invalid(IDEMPOTENCY_KEY, "INVALID", detail)
        })
}

fn in_progress() -> ApiError {
    let detail = "the first request with this Idempotency-Key is still being carried out";
    ApiError { retry_after: Some(1), ..ApiError::conflict("IN_PROGRESS", detail) }
}

fn reused() -> ApiError {
    let detail = "the first request with this Idempotency-Key had another body: send this one with a key of its own";
    ApiError { code: "IDEMPOTENCY_KEY_REUSED".into(), ..ApiError::invalid(IDEMPOTENCY_KEY, "REUSED", detail) }
}

fn outcome_unknown() -> ApiError {
    let detail = "it is not known what became of the first request with this Idempotency-Key: look whether it was \
        carried out, and if not send it again with another key";
    ApiError::conflict("OUTCOME_UNKNOWN", detail)
}

/// What a repetition is answered.
fn repeated(admin: &Admin, row: &IdempotentRequest, first: IdempotentRequest) -> Result<Response, ApiError> {
    if first.fingerprint != row.fingerprint {
        return Err(reused());
    }
    let StoredAnswer { status: Some(status), body: Some(sealed), etag } = first.answer else {
        let is_lost = first.created_at < admin.now.before(admin.state.config.request_timeout);
        return Err(if is_lost { outcome_unknown() } else { in_progress() });
    };
    let body = admin.state.sealer.open(row.key_hash.as_bytes(), &sealed).map_err(|reason| {
        tracing::warn!(%reason, "failed to open the answer of a repeated request");
        outcome_unknown()
    })?;
    let status = u16::try_from(status).map_err(ApiError::internal)?;
    let has_body = !body.is_empty();
    let mut response = (StatusCode::from_u16(status).map_err(ApiError::internal)?, Body::from(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if has_body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(etag) = etag {
        headers.insert(ETAG, HeaderValue::try_from(etag).map_err(ApiError::internal)?);
    }
    Ok(response)
}

/// Keeps the answer of a request that was carried out. If that fails, repetitions are answered `OUTCOME_UNKNOWN`.
async fn finish(admin: &Admin, key_hash: &str, response: Response) -> Result<Response, ApiError> {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(ApiError::internal)?;
    let etag = parts.headers.get(ETAG).and_then(|tag| tag.to_str().ok());
    if let Err(error) = store(admin, key_hash, parts.status, &body, etag).await {
        tracing::warn!(code = error.code, "failed to store the answer of a request with an Idempotency-Key");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

async fn store(
    admin: &Admin,
    key_hash: &str,
    status: StatusCode,
    body: &Bytes,
    etag: Option<&str>,
) -> Result<(), ApiError> {
    let text = std::str::from_utf8(body).map_err(ApiError::internal)?;
    let sealed = admin.state.sealer.seal(key_hash.as_bytes(), text).map_err(ApiError::internal)?;
    let answer =
        StoredAnswer { status: Some(status.as_u16().into()), body: Some(sealed), etag: etag.map(ToOwned::to_owned) };
    dispatch!(&mut admin.write().await?, idempotency::finish(key_hash, &answer))?;
    Ok(())
}

/// Lets a request that did nothing run again under the same key.
async fn release(admin: &Admin, key_hash: &str) {
    let released = match admin.write().await {
        Ok(mut conn) => dispatch!(&mut conn, idempotency::release(key_hash)).map_err(ApiError::from),
        Err(error) => Err(error),
    };
    if let Err(error) = released {
        tracing::warn!(code = error.code, "failed to forget a request with an Idempotency-Key that did nothing");
    }
}
