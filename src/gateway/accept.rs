//! From a TCP connection to a tunnel: limits, TLS, the HTTP upgrade.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::arrival::{Arrival, Listener, Peer};
use super::session::{self, Greeted};
use super::upgrade::{Agreement, Outcome, respond, stranger};
use crate::lifecycle::Shutdown;
use crate::mux::Role;
use crate::net::buffered::Buffered;
use crate::net::listener;
use crate::net::socket::Socket;
use crate::net::tunnel::{Driver, Transport, Tunnel};
use crate::net::websocket::Side;

/// Accepts until draining; `sessions` counts what was accepted.
pub(super) async fn run(listener: Listener, shared: Arc<Shared>, shutdown: &Shutdown, sessions: &Shutdown) {
    loop {
        let (socket, from) = tokio::select! {
            () = shutdown.draining() => return,
            accepted = listener::accept(&listener.socket) => accepted,
        };
        match shared.arrivals.admit(listener.beginning, from) {
            Ok(arrival) => sessions.spawn(handshake(Arc::clone(&shared), socket, arrival, sessions.clone())),
            Err(reason) => shared.metrics.refuse(reason),
        }
    }
}

/// TLS and HTTP within one deadline; the session goes on in a task of its own, which keeps idle tunnels small.
async fn handshake(shared: Arc<Shared>, socket: TcpStream, arrival: Arrival, sessions: Shutdown) {
    let limit = shared.tunnel.handshake_timeout;
    let lowat = u32::try_from(shared.tunnel.notsent_lowat.as_u64()).unwrap_or(u32::MAX);
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(lowat) {
        tracing::debug!(%error, "TCP_NOTSENT_LOWAT not set");
    }
    let outcome = Arc::new(Outcome::default());
    let identified = tokio::select! {
        identified = shared.arrivals.identify(&socket, &arrival) => identified,
        () = arrival.place.crowded_out() => Err("crowded_out"),
        () = sessions.draining() => return,
    };
    let peer = match identified {
        Ok(peer) => peer,
        Err(reason) => {
            shared.metrics.refuse(reason);
            return;
        }
    };
    let agreeing = Box::pin(agree(&shared, socket, &arrival, &peer, &outcome));
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
    arrival: &Arrival,
    peer: &Peer,
    outcome: &Arc<Outcome>,
) -> Result<Option<(Socket, Bytes, Agreement)>, String> {
    let socket = if arrival.beginning.is_clear {
        Socket::Clear(socket)
    } else {
        let acceptor = TlsAcceptor::from(Arc::clone(&shared.tls));
        Socket::Tls(acceptor.accept(Buffered::reading(socket)).await.map_err(|error| error.to_string())?)
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, outcome) = (Arc::clone(shared), Arc::clone(outcome));
        let client = shared.arrivals.client(arrival, peer, request.headers());
        async move {
            let Some(client) = client else {
                shared.metrics.refuse("pre_hello");
                return Ok(stranger());
            };
            Ok::<_, Infallible>(respond(request, client, &shared, &outcome).await)
        }
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
