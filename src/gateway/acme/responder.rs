use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::lifecycle::Shutdown;
use crate::net::http;

const LIMITS: http::Limits =
    http::Limits { connections: 64, header: Duration::from_secs(10), idle: Duration::from_secs(10) };

/// Answers to HTTP-01 (RFC 8555, 8.3), by token.
#[derive(Clone, Default)]
pub(super) struct Responder(Arc<Mutex<HashMap<String, String>>>);

impl Responder {
    pub(super) fn answer(&self, token: &str, authorization: &str) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(token.to_owned(), authorization.to_owned());
    }

    /// Serves until drained.
    pub(super) async fn serve(self, listener: TcpListener, shutdown: &Shutdown) {
        let router = Router::new().route("/.well-known/acme-challenge/{token}", get(answer)).with_state(self);
        http::serve(listener, None, router, LIMITS, shutdown).await;
    }
}

async fn answer(State(responder): State<Responder>, Path(token): Path<String>) -> Response {
    let answer = responder.0.lock().unwrap_or_else(PoisonError::into_inner).get(&token).cloned();
    match answer {
        Some(answer) => ([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
