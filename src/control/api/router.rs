use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::contract;
use super::error::ApiError;
use super::idempotency;
use crate::api::Problem;
use crate::control::runtime::ControlState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The whole REST API.
pub(crate) fn router(state: Arc<ControlState>) -> Router {
    let limit = usize::try_from(state.config.body_limit.as_u64()).unwrap_or(usize::MAX);
    let (api, contract) = contract::routes().split_for_parts();
    let api = contract::serve(api, contract, state.config.api_docs);
    api.fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async { StatusCode::METHOD_NOT_ALLOWED })
        .layer(middleware::from_fn_with_state(Arc::clone(&state), idempotency::once))
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn_with_state(Arc::clone(&state), observe))
        .with_state(state)
}

/// Runs a request to its end even if the peer goes away, times it, and writes errors as problem+json.
async fn observe(State(state): State<Arc<ControlState>>, request: Request, next: Next) -> Response {
    let id = Uuid::now_v7().to_string();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let started = Instant::now();
    let changes = request.method() != Method::GET && route.starts_with("/api/v1/admin/");
    let limit = state.config.request_timeout;
    let mut work = tokio::spawn(next.run(request));
    let response = match tokio::time::timeout(limit, &mut work).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => ApiError::internal(panic).into_response(),
        Err(_) => {
            work.abort();
            ApiError::given_up().into_response()
        }
    };
    if changes {
        state.forget();
    }
    let status = response.status();
    let labels = [route.as_str(), status.as_str()];
    state.metrics.http.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
    tracing::debug!(request_id = %id, route, status = status.as_u16(), "request");
    let mut response =
        if status.is_client_error() || status.is_server_error() { problem(response, &id) } else { response };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

fn problem(mut response: Response, id: &str) -> Response {
    let status = response.status();
    let title = status.canonical_reason().unwrap_or("Error");
    let error = response.extensions_mut().remove::<ApiError>();
    let retry_after = error.as_ref().and_then(|error| error.retry_after).map(u64::from);
    let code = error.as_ref().map_or_else(|| title.to_uppercase().replace(' ', "_"), |error| error.code.clone());
    let detail = error.as_ref().and_then(|error| error.detail.clone());
    let existing = error.as_ref().and_then(|error| error.existing);
    let (errors, devices) = error.map(|error| (error.errors, error.devices.into_vec())).unwrap_or_default();
    let body = Problem {
        kind: "about:blank".into(),
        title: title.into(),
        status: status.as_u16(),
        code,
        detail,
        request_id: id.into(),
        errors,
        devices,
        retry_after,
        existing,
    };
    let text = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = (status, Body::from(text)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
