//! From a TCP connection to a tunnel: limits, TLS, the HTTP upgrade.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;

use super::arrival::{Arrival, Listener, Peer};
use super::connection_limiter::Permits;
use super::edge::{self, FirstRequest, Protocol};
use super::rejection::Rejection;
use super::tunnel::{self, PreHello};
use super::upgrade::{Agreement, Grant, Outcome, Switched, respond};
use super::{GatewayState, http2};
use crate::lifecycle::Shutdown;
use crate::net::buffered::Buffered;
use crate::net::proxy_protocol::Named;
use crate::net::socket::Socket;
use crate::net::tunnel::Framing;
use crate::net::websocket::Side;
use crate::net::{listener, tls};

/// The first byte of TLS: a record of the handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Accepts until another process does, or the drain is over; `sessions` counts what was accepted.
pub(super) async fn run(listener: Listener, state: Arc<GatewayState>, sessions: &Shutdown) {
    let succeeded = state.drain.succeeded();
    let mut succeeded = std::pin::pin!(succeeded);
    loop {
        let (socket, from) = tokio::select! {
            () = sessions.draining() => return,
            () = &mut succeeded => return,
            accepted = listener::accept(&listener.socket) => accepted,
        };
        match state.arrivals.admit(listener.beginning, from) {
            Ok(arrival) => sessions.spawn(handshake(Arc::clone(&state), socket, arrival, sessions.clone())),
            Err(rejection) => state.metrics.refuse(rejection),
        }
    }
}

/// What a connection turned out to be; these bytes of it were read.
enum Agreed {
    Tunnel(Socket, Bytes, Agreement),
    Http2(Socket, Peer, Named, Option<Grant>),
}

/// Finds out who has come; a session goes on in a task of its own, which keeps idle tunnels small.
async fn handshake(state: Arc<GatewayState>, socket: TcpStream, arrival: Arrival, sessions: Shutdown) {
    let lowat = u32::try_from(state.tunnel.notsent_lowat.as_u64()).unwrap_or(u32::MAX);
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(lowat) {
        tracing::debug!(%error, "failed to set TCP_NOTSENT_LOWAT");
    }
    let receiving = Box::pin(receive(&state, socket, &arrival));
    let received = tokio::select! {
        received = receiving => received,
        () = arrival.permits.handshake.evicted() => Err(Rejection::CrowdedOut),
        () = sessions.draining() => return,
    };
    match received {
        Ok(Some(Agreed::Tunnel(socket, read, agreement))) => {
            let lifetime = sessions.clone();
            sessions.spawn(serve_tunnel(state, socket, read, agreement, arrival, lifetime));
        }
        Ok(Some(Agreed::Http2(socket, peer, ends, first))) => {
            let lifetime = sessions.clone();
            sessions.spawn(http2::serve(state, socket, arrival, (peer, ends), first, lifetime));
        }
        Ok(None) => {}
        Err(rejection) => state.metrics.refuse(rejection),
    }
}

/// Who it is, TLS, and the first request, within one deadline; then the connection is a client's or the site's. Gives the
/// tunnel that it becomes, or why it was refused.
async fn receive(state: &Arc<GatewayState>, socket: TcpStream, arrival: &Arrival) -> Result<Option<Agreed>, Rejection> {
    let peer = state.arrivals.identify(&socket, arrival).await?;
    let received = welcome(state, socket, arrival, &peer).await;
    received.map_err(|error| {
        tracing::debug!(%error, "handshake failed");
        if error.kind() == io::ErrorKind::TimedOut { Rejection::HandshakeTimeout } else { Rejection::Handshake }
    })
}

async fn welcome(
    state: &Arc<GatewayState>,
    socket: TcpStream,
    arrival: &Arrival,
    peer: &Peer,
) -> io::Result<Option<Agreed>> {
    let due = arrival.at + state.tunnel.handshake_timeout;
    let ends = Named { client: peer.address, local: peer.local.map_or_else(|| socket.local_addr(), Ok)? };
    let Some(mut socket) = encrypted(state, socket, arrival, ends, due).await? else { return Ok(None) };
    let may_be_h2c = peer.forwards && arrival.beginning.is_clear && state.http2.enabled;
    let is_http2 = if may_be_h2c {
        timeout_at(due.into(), socket.begins_with(edge::PREFACE)).await??
    } else {
        socket.alpn() == Some(tls::H2.as_bytes())
    };
    let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
    if peer.forwards || protocol == Protocol::Http2 && !state.site.speaks(protocol) {
        return match protocol {
            Protocol::Http1 => agree(state, socket, arrival, (peer, ends), None).await,
            Protocol::Http2 => Ok(Some(Agreed::Http2(socket, *peer, ends, None))),
        };
    }
    match edge::first(&mut socket, state, protocol, ends, due).await? {
        FirstRequest::Client(read, granted) => {
            socket.put_back(read.freeze());
            let first = Some(granted);
            match protocol {
                Protocol::Http1 => timeout_at(due.into(), agree(state, socket, arrival, (peer, ends), first)).await?,
                Protocol::Http2 => Ok(Some(Agreed::Http2(socket, *peer, ends, first))),
            }
        }
        FirstRequest::Site(handover) => {
            state.metrics.refuse(Rejection::NotATunnel);
            let left = state.site.serve(socket, handover, ends, || arrival.permits.handshake.touch()).await;
            Ok(left.map(|socket| Agreed::Http2(socket, *peer, ends, None)))
        }
    }
}

/// The connection behind TLS, unless it comes in clear text where that is spoken; where it is not, clear text is the site's.
async fn encrypted(
    state: &GatewayState,
    socket: TcpStream,
    arrival: &Arrival,
    ends: Named,
    due: Instant,
) -> io::Result<Option<Socket>> {
    if arrival.beginning.is_clear {
        return Ok(Some(socket.into()));
    }
    let mut first = [0];
    timeout_at(due.into(), socket.peek(&mut first)).await??;
    if first[0] != TLS_HANDSHAKE {
        state.metrics.refuse(Rejection::NotATunnel);
        state.site.serve_plain(socket, ends).await;
        return Ok(None);
    }
    let acceptor = TlsAcceptor::from(state.tls());
    let socket = timeout_at(due.into(), acceptor.accept(Buffered::reading(socket))).await??;
    let is_over = tls::is_validation(socket.get_ref().1);
    Ok((!is_over).then(|| socket.into()))
}

/// Answers requests, of which the first may have been let in already, until one becomes a tunnel. Those of a proxy may be of
/// several clients, and for the site.
async fn agree(
    state: &Arc<GatewayState>,
    socket: Socket,
    arrival: &Arrival,
    (peer, ends): (&Peer, Named),
    first: Option<Grant>,
) -> io::Result<Option<Agreed>> {
    let outcome = Arc::new(Outcome::after(first, peer.forwards));
    let service = service_fn(|mut request: Request<Incoming>| {
        let (state, outcome) = (Arc::clone(state), Arc::clone(&outcome));
        let client = state.arrivals.client(peer, request.headers());
        let has_permit = !peer.forwards || arrival.permits.handshake.assign_to(client);
        async move {
            if !has_permit {
                state.metrics.refuse(Rejection::PreHello);
                request.extensions_mut().remove::<OnUpgrade>();
                return Ok(state.site.answer(request, ends).await);
            }
            let client = SocketAddr::new(client, ends.client.port());
            Ok::<_, Infallible>(respond(request, Named { client, ..ends }, &state, &outcome).await)
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(peer.forwards.then_some(state.tunnel.handshake_timeout))
        .title_case_headers(true)
        .preserve_header_case(true)
        .max_buf_size(usize::try_from(state.tunnel.request_max.as_u64()).unwrap_or(usize::MAX))
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)?;
    let (upgrade, agreement) = match outcome.take() {
        Some(Switched::Tunnel(upgrade, agreement)) => (upgrade, agreement),
        Some(Switched::Site(client, server)) => {
            let (client, server) = tokio::try_join!(client, server).map_err(io::Error::other)?;
            let mut client = edge::observed(TokioIo::new(client), || arrival.permits.handshake.touch());
            tokio::io::copy_bidirectional(&mut client, &mut TokioIo::new(server)).await?;
            return Ok(None);
        }
        None => return Ok(None),
    };
    let upgraded = upgrade.await.map_err(io::Error::other)?.into_inner().into_inner();
    let parts = upgraded
        .downcast::<TokioIo<Socket>>()
        .map_err(|_| io::Error::other("the upgraded socket is of another type"))?;
    Ok(Some(Agreed::Tunnel(parts.io.into_inner(), parts.read_buf, agreement)))
}

async fn serve_tunnel(
    state: Arc<GatewayState>,
    socket: Socket,
    read: Bytes,
    agreement: Agreement,
    arrival: Arrival,
    shutdown: Shutdown,
) {
    let Arrival { at, permits: Permits { handshake, connection }, .. } = arrival;
    let pre_hello = PreHello { handshake, at, agreement, share: None };
    let refused =
        Box::pin(tunnel::run(state, socket, read, Framing::WebSocket(Side::Server), pre_hello, shutdown)).await;
    drop((refused, connection));
}
