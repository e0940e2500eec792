//! From a TCP connection to a tunnel: limits, TLS, the HTTP upgrade.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::places::{Greeting, Place};
use super::session::{self, Greeted};
use super::upgrade::{Agreement, Outcome, respond};
use crate::lifecycle::Shutdown;
use crate::mux::Role;
use crate::net::buffered::Buffered;
use crate::net::listener;
use crate::net::tls::is_validation;
use crate::net::tunnel::{Driver, Transport, Tunnel};
use crate::net::websocket::Side;

type Socket = TlsStream<Buffered<TcpStream>>;

/// Accepts until draining; `sessions` counts what was accepted.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, shutdown: &Shutdown, sessions: &Shutdown) {
    let greeting = Greeting::new(&shared.tunnel);
    let connections = Arc::new(Semaphore::new(shared.tunnel.max_connections));
    loop {
        let (socket, peer) = tokio::select! {
            () = shutdown.draining() => return,
            accepted = listener::accept(&listener) => accepted,
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            shared.metrics.refuse("connections");
            continue;
        };
        let Some(place) = greeting.enter(peer.ip()) else {
            shared.metrics.refuse("pre_hello");
            continue;
        };
        let arrival = Arrival { at: Instant::now(), from: peer.ip(), place, permit };
        sessions.spawn(handshake(Arc::clone(&shared), socket, arrival, sessions.clone()));
    }
}

struct Arrival {
    at: Instant,
    from: IpAddr,
    place: Place,
    permit: OwnedSemaphorePermit,
}

/// TLS and HTTP within one deadline; the session goes on in a task of its own, which keeps idle tunnels small.
async fn handshake(shared: Arc<Shared>, socket: TcpStream, arrival: Arrival, sessions: Shutdown) {
    let limit = shared.tunnel.handshake_timeout;
    let lowat = u32::try_from(shared.tunnel.notsent_lowat.as_u64()).unwrap_or(u32::MAX);
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(lowat) {
        tracing::debug!(%error, "TCP_NOTSENT_LOWAT not set");
    }
    let outcome = Arc::new(Outcome::default());
    let agreeing = Box::pin(agree(&shared, socket, arrival.from, &outcome));
    let upgraded = tokio::select! {
        upgraded = tokio::time::timeout(limit, agreeing) => upgraded,
        () = arrival.place.crowded_out() => {
            shared.metrics.refuse("crowded_out");
            return;
        }
        () = sessions.draining() => return,
    };
    match upgraded {
        Ok(Ok(Some((socket, read, agreement)))) => {
            let lifetime = sessions.clone();
            sessions.spawn(tunnel(shared, socket, read, agreement, arrival, lifetime));
        }
        _ if outcome.was_served() => {}
        Ok(Ok(None)) => shared.metrics.refuse("not_a_tunnel"),
        Ok(Err(reason)) => {
            shared.metrics.refuse("handshake");
            tracing::debug!(reason, "handshake failed");
        }
        Err(_) => shared.metrics.refuse("handshake_timeout"),
    }
}

async fn agree(
    shared: &Arc<Shared>,
    socket: TcpStream,
    from: IpAddr,
    outcome: &Arc<Outcome>,
) -> Result<Option<(Socket, Bytes, Agreement)>, String> {
    let acceptor = TlsAcceptor::from(shared.tls());
    let socket = acceptor.accept(Buffered::reading(socket)).await.map_err(|error| error.to_string())?;
    if is_validation(socket.get_ref().1) {
        return Ok(None);
    }
    let service = service_fn(|request| {
        let (shared, outcome) = (Arc::clone(shared), Arc::clone(outcome));
        async move { Ok::<_, Infallible>(respond(request, from, &shared, &outcome).await) }
    });
    http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(usize::try_from(shared.tunnel.request_max.as_u64()).unwrap_or(usize::MAX))
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await
        .map_err(|error| error.to_string())?;
    let Some((upgrade, agreement)) = outcome.take_tunnel() else { return Ok(None) };
    let upgraded = upgrade.await.map_err(|error| error.to_string())?.into_inner().into_inner();
    let parts = upgraded.downcast::<TokioIo<Socket>>().map_err(|_| "the upgraded socket is of another type")?;
    Ok(Some((parts.io.into_inner(), parts.read_buf, agreement)))
}

async fn tunnel(
    shared: Arc<Shared>,
    socket: Socket,
    read: Bytes,
    agreement: Agreement,
    arrival: Arrival,
    shutdown: Shutdown,
) {
    let Arrival { at, place, permit, .. } = arrival;
    let Agreement { encoding, bearer } = agreement;
    let tunnel = Tunnel::new(Role::Gateway, encoding, Arc::clone(&shared.limits));
    let transport = Transport {
        side: Side::Server,
        encoding,
        message_max: shared.message_max(encoding),
        hello_max: usize::try_from(shared.tunnel.hello_max.as_u64()).unwrap_or(usize::MAX),
        fragments_max: shared.tunnel.fragments_max,
        close_timeout: shared.tunnel.close_timeout,
    };
    let driver = Driver::new(socket, read, tunnel.clone(), transport);
    let (ended, refused) =
        tokio::join!(driver.run(), session::serve(shared, tunnel, Greeted { place, at, bearer, encoding }, shutdown));
    tracing::debug!(reason = %ended, "connection ended");
    drop((refused, permit));
}
