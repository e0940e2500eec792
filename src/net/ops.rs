//! The operations listener of a role: `/metrics`, `/healthz`, `/readyz`.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use tokio::net::TcpListener;

use super::http;
use super::listener::{self, BindError};
use crate::config::Net;
use crate::lifecycle::Shutdown;
use crate::metrics::Metrics;

/// Far below any limit of open files, and apart from what strangers can take.
const LIMITS: http::Limits =
    http::Limits { connections: 32, header: Duration::from_secs(10), idle: Duration::from_secs(90) };

/// Says whether a role can do its work now, or why not.
pub trait Readiness: Send + Sync + 'static {
    /// Why it cannot, in one line.
    type Unready: Display + Send;

    /// Whether it can.
    fn ready(&self) -> impl Future<Output = Result<(), Self::Unready>> + Send;

    /// What somebody should look after although the role can do its work; a line each, shown with `ready`.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Sets gauges that are read rather than counted, before they are shown.
    fn refresh(&self) {}
}

/// Binds the address of an operations listener, if there is one.
pub async fn bind(address: &str, net: &Net) -> Result<Option<TcpListener>, BindError> {
    if address.is_empty() { Ok(None) } else { listener::bind(address, net).await.map(Some) }
}

/// Serves until `shutdown` drains; `/readyz` says so from when `draining` does.
pub async fn serve<R: Readiness>(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Arc<R>,
    draining: Shutdown,
    shutdown: &Shutdown,
) {
    let shown = Arc::clone(&readiness);
    let render = move || async move {
        shown.refresh();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())
    };
    let ready = move || async move {
        if draining.is_draining() {
            return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned());
        }
        match readiness.ready().await {
            Ok(()) => {
                let warnings = readiness.warnings().into_iter().map(|line| format!("warning: {line}\n"));
                (StatusCode::OK, std::iter::once("ready\n".to_owned()).chain(warnings).collect())
            }
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render));
    http::serve(listener, None, router, LIMITS, shutdown).await;
}
