//! From a TCP connection to a tunnel: limits, TLS, the HTTP upgrade.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::edge::{self, First};
use super::places::{Greeting, Place};
use super::session::{self, Greeted};
use super::upgrade::{Agreement, Outcome, respond};
use crate::lifecycle::Shutdown;
use crate::mux::Role;
use crate::net::buffered::Buffered;
use crate::net::listener;
use crate::net::prefixed::Prefixed;
use crate::net::tunnel::{Driver, Transport, Tunnel};
use crate::net::websocket::Side;

/// The first byte of TLS: a record of the handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

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

/// A tunnel that was agreed on; these bytes of it were read.
type Agreed = (Socket, Bytes, Agreement);

/// Finds out who has come; a session goes on in a task of its own, which keeps idle tunnels small.
async fn handshake(shared: Arc<Shared>, socket: TcpStream, arrival: Arrival, sessions: Shutdown) {
    let lowat = u32::try_from(shared.tunnel.notsent_lowat.as_u64()).unwrap_or(u32::MAX);
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(lowat) {
        tracing::debug!(%error, "TCP_NOTSENT_LOWAT not set");
    }
    let receiving = Box::pin(receive(&shared, socket, &arrival));
    let received = tokio::select! {
        received = receiving => received,
        () = arrival.place.crowded_out() => {
            shared.metrics.refuse("crowded_out");
            return;
        }
        () = sessions.draining() => return,
    };
    match received {
        Ok(Some((socket, read, agreement))) => {
            let lifetime = sessions.clone();
            sessions.spawn(tunnel(shared, socket, read, agreement, arrival, lifetime));
        }
        Ok(None) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => shared.metrics.refuse("handshake_timeout"),
        Err(error) => {
            shared.metrics.refuse("handshake");
            tracing::debug!(%error, "handshake failed");
        }
    }
}

/// TLS and the first request within one deadline; then the connection is a client's or the site's. Gives the tunnel that
/// it becomes.
async fn receive(shared: &Arc<Shared>, socket: TcpStream, arrival: &Arrival) -> io::Result<Option<Agreed>> {
    let due = arrival.at + shared.tunnel.handshake_timeout;
    let mut first = [0];
    timeout_at(due.into(), socket.peek(&mut first)).await??;
    if first[0] != TLS_HANDSHAKE {
        shared.metrics.refuse("not_a_tunnel");
        shared.site.serve_plain(socket).await;
        return Ok(None);
    }
    let acceptor = TlsAcceptor::from(Arc::clone(&shared.tls));
    let mut socket = timeout_at(due.into(), acceptor.accept(Buffered::reading(socket))).await??;
    match edge::first(&mut socket, shared, due).await? {
        First::Ours(read) => {
            timeout_at(due.into(), agree(shared, Prefixed::new(read.freeze(), socket), arrival.from)).await?
        }
        First::Strangers(handover) => {
            shared.metrics.refuse("not_a_tunnel");
            shared.site.serve(socket, handover).await;
            Ok(None)
        }
    }
}

/// Answers a client's requests until one becomes a tunnel.
async fn agree(shared: &Arc<Shared>, socket: Prefixed<Socket>, from: IpAddr) -> io::Result<Option<Agreed>> {
    let outcome = Arc::new(Outcome::default());
    let service = service_fn(|request| {
        let (shared, outcome) = (Arc::clone(shared), Arc::clone(&outcome));
        async move { Ok::<_, Infallible>(respond(request, from, &shared, &outcome).await) }
    });
    http1::Builder::new()
        .header_read_timeout(None)
        .title_case_headers(true)
        .preserve_header_case(true)
        .max_buf_size(usize::try_from(shared.tunnel.request_max.as_u64()).unwrap_or(usize::MAX))
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)?;
    let Some((upgrade, agreement)) = outcome.take_tunnel() else { return Ok(None) };
    let upgraded = upgrade.await.map_err(io::Error::other)?.into_inner().into_inner();
    let parts = upgraded
        .downcast::<TokioIo<Prefixed<Socket>>>()
        .map_err(|_| io::Error::other("the upgraded socket is of another type"))?;
    let (_, socket) = parts.io.into_inner().into_parts();
    Ok(Some((socket, parts.read_buf, agreement)))
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
