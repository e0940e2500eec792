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
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::places::{Admittance, Entrance};
use super::session::{self, Greeted};
use super::upgrade::{Agreement, Outcome, respond};
use super::{Shared, http2};
use crate::lifecycle::Shutdown;
use crate::net::buffered::Buffered;
use crate::net::tunnel::Framing;
use crate::net::websocket::Side;
use crate::net::{listener, tls};

type Socket = TlsStream<Buffered<TcpStream>>;

/// Accepts until draining; `sessions` counts what was accepted.
pub(super) async fn run(listener: TcpListener, shared: Arc<Shared>, shutdown: &Shutdown, sessions: &Shutdown) {
    let entrance = Entrance::new(&shared.tunnel);
    loop {
        let (socket, peer) = tokio::select! {
            () = shutdown.draining() => return,
            accepted = listener::accept(&listener) => accepted,
        };
        let admittance = match entrance.enter(peer.ip()) {
            Ok(admittance) => admittance,
            Err(limit) => {
                shared.metrics.refuse(limit);
                continue;
            }
        };
        let arrival = Arrival { at: Instant::now(), from: peer.ip(), admittance, entrance: entrance.clone() };
        sessions.spawn(handshake(Arc::clone(&shared), socket, arrival, sessions.clone()));
    }
}

/// A connection at its start.
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) from: IpAddr,
    pub(super) admittance: Admittance,
    pub(super) entrance: Entrance,
}

/// What a connection turned out to be.
enum Agreed {
    Tunnel(Socket, Bytes, Agreement),
    Http2(Socket),
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
        () = arrival.admittance.place.crowded_out() => {
            shared.metrics.refuse("crowded_out");
            return;
        }
        () = sessions.draining() => return,
    };
    match upgraded {
        Ok(Ok(Some(Agreed::Tunnel(socket, read, agreement)))) => {
            let lifetime = sessions.clone();
            sessions.spawn(tunnel(shared, socket, read, agreement, arrival, lifetime));
        }
        Ok(Ok(Some(Agreed::Http2(socket)))) => {
            let lifetime = sessions.clone();
            sessions.spawn(http2::serve(shared, socket, arrival, lifetime));
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
) -> Result<Option<Agreed>, String> {
    let acceptor = TlsAcceptor::from(Arc::clone(&shared.tls));
    let socket = acceptor.accept(Buffered::reading(socket)).await.map_err(|error| error.to_string())?;
    if socket.get_ref().1.alpn_protocol() == Some(tls::H2.as_bytes()) {
        return Ok(Some(Agreed::Http2(socket)));
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
    Ok(Some(Agreed::Tunnel(parts.io.into_inner(), parts.read_buf, agreement)))
}

async fn tunnel(
    shared: Arc<Shared>,
    socket: Socket,
    read: Bytes,
    agreement: Agreement,
    arrival: Arrival,
    shutdown: Shutdown,
) {
    let Arrival { at, admittance: Admittance { place, permit }, .. } = arrival;
    let greeted = Greeted { place, at, agreement, lane: None };
    let refused =
        Box::pin(session::run(shared, socket, read, Framing::WebSocket(Side::Server), greeted, shutdown)).await;
    drop((refused, permit));
}
