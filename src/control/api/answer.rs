//! What requests are answered with (docs/02, "Conventions").

use std::time::Instant;

use axum::Json;
use axum::http::header::{ETAG, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::control::runtime::ControlState;
use crate::control::runtime::events::Delivery;

/// Something of the database as it is shown; apart from the rows, so that no column is shown unless somebody says so.
pub(crate) trait View: Serialize {
    /// The row's revision, if it has one: its `ETag`.
    fn revision(&self) -> Option<i32> {
        None
    }
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct One<T>(pub(crate) T);

/// What was made.
#[derive(Debug)]
pub(crate) struct Created<T>(pub(crate) T);

/// What was deleted.
#[derive(Debug)]
pub(crate) struct Deleted;

fn tagged<T: View>(status: StatusCode, view: T) -> Response {
    let mut headers = HeaderMap::new();
    if let Some(tag) = view.revision().and_then(|revision| HeaderValue::from_str(&format!("\"{revision}\"")).ok()) {
        headers.insert(ETAG, tag);
    }
    (status, headers, Json(view)).into_response()
}

impl<T: View> IntoResponse for One<T> {
    fn into_response(self) -> Response {
        tagged(StatusCode::OK, self.0)
    }
}

impl<T: View> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        tagged(StatusCode::CREATED, self.0)
    }
}

impl IntoResponse for Deleted {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

/// What was changed, and how far the news of it has come.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Delivered<T> {
    #[serde(flatten)]
    pub(crate) row: T,
    /// Absent if gateways need not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) delivery: Option<Delivery>,
}

impl<T> Delivered<T> {
    /// Waits for the gateways to act on an event, if there is one.
    pub(crate) async fn of(state: &ControlState, row: T, event_seq: Option<i64>) -> Self {
        let since = Instant::now();
        let Some(seq) = event_seq else { return Self { row, delivery: None } };
        let delivery = state.events.delivery(&state.db, seq, since).await;
        if delivery.acked < delivery.of {
            state.metrics.unacked.inc();
        } else if delivery.of > 0 {
            state.metrics.revocation.observe(since.elapsed().as_secs_f64());
        }
        Self { row, delivery: Some(delivery) }
    }
}

impl<T: View> View for Delivered<T> {
    fn revision(&self) -> Option<i32> {
        self.row.revision()
    }
}

impl<T: View> IntoResponse for Delivered<T> {
    fn into_response(self) -> Response {
        tagged(StatusCode::OK, self)
    }
}
