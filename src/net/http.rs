//! Serves a router over HTTP/1.1, with or without TLS, until drained.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::listener;
use crate::lifecycle::Shutdown;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Accepts until draining, lets open requests finish, returns when all connections are closed.
pub async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, router: Router, shutdown: &Shutdown) {
    let connections = shutdown.child();
    let acceptor = tls.map(TlsAcceptor::from);
    loop {
        let stream = tokio::select! {
            () = shutdown.draining() => break,
            (stream, _) = listener::accept(&listener) => stream,
        };
        let (router, acceptor, lifetime) = (router.clone(), acceptor.clone(), connections.clone());
        connections.spawn(async move {
            let Some(acceptor) = acceptor else { return connection(stream, router, lifetime).await };
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, router, lifetime).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake timed out"),
            }
        });
    }
    connections.finished().await;
}

async fn connection<S>(stream: S, router: Router, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.aborted() => return,
        () = shutdown.draining() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.aborted() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
