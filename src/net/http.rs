//! Serves a router over HTTP/1.1, with or without TLS, until drained.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::listener;
use super::slots::{BusyGuard, Slot, Slots};
use crate::lifecycle::Shutdown;

/// What strangers may hold of a listener, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections.
    pub connections: usize,
    /// From accept to the first request, TLS included.
    pub header: Duration,
    /// Between requests.
    pub idle: Duration,
}

impl Limits {
    /// As many connections as the limit of open files leaves besides `reserved` files; a lower number is logged.
    #[must_use]
    pub fn within_open_files(self, reserved: usize) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let Some(files) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return self };
        let most = files.saturating_sub(reserved).max(1);
        if self.connections <= most {
            return self;
        }
        tracing::warn!(files, connections = most, configured = self.connections, "the limit of open files is low");
        Self { connections: most, ..self }
    }
}

/// Accepts until draining, lets open requests finish, returns when all connections are closed.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    limits: Limits,
    shutdown: &Shutdown,
) {
    let connections = shutdown.child();
    let acceptor = tls.map(TlsAcceptor::from);
    let slots = Slots::new(limits.connections);
    loop {
        let stream = tokio::select! {
            () = shutdown.draining() => break,
            (stream, _) = listener::accept(&listener) => stream,
        };
        let Some(slot) = slots.take() else {
            tracing::debug!("connection limit reached");
            continue;
        };
        let (router, acceptor, lifetime) = (router.clone(), acceptor.clone(), connections.clone());
        connections.spawn(async move {
            let asked = tokio::time::sleep(limits.header);
            let work = async {
                let Some(acceptor) = acceptor else { return connection(stream, router, limits, &slot, lifetime).await };
                match acceptor.accept(stream).await {
                    Ok(stream) => connection(stream, router, limits, &slot, lifetime).await,
                    Err(error) => tracing::debug!(%error, "TLS handshake failed"),
                }
            };
            tokio::pin!(work, asked);
            tokio::select! {
                () = &mut work => return,
                () = &mut asked => {}
                () = slot.evicted() => {}
            }
            if slot.has_served() {
                work.await;
            }
        });
    }
    connections.finished().await;
}

async fn connection<S>(stream: S, router: Router, limits: Limits, slot: &Arc<Slot>, shutdown: Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let busy = slot.busy();
        let answer = router.call(request);
        async move { answer.await.map(|response| response.map(|body| Answer { body, _busy: busy })) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.idle);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.aborted() => return,
        () = async { tokio::select! { () = shutdown.draining() => {}, () = slot.evicted() => {} } } => {
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

/// An answer's body; its connection is busy until it is sent.
struct Answer {
    body: Body,
    _busy: BusyGuard,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
