//! Connections that speak HTTP/2: tunnels, the portal's requests and the site's beside each other (docs/04, "HTTP/2").

mod request;
mod unread;

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use hyper::header::{CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::GatewayState;
use super::arrival::{Arrival, Peer};
use super::connection_limiter::Permits;
use super::rejection::Rejection;
use super::tunnel::{self, PreHello};
use super::upgrade::Grant;
use super::window_share::WindowShare;
use crate::config;
use crate::lifecycle::Shutdown;
use crate::net::http2::{Channel, MEDIA_TYPE, Piece};
use crate::net::metered::Metered;
use crate::net::proxy_protocol::Named;
use crate::net::tunnel::Framing;
use unread::Unread;

/// Serves a connection to its end, which is after that of its last tunnel.
pub(super) async fn serve<S>(
    state: Arc<GatewayState>,
    socket: S,
    arrival: Arrival,
    (peer, ends): (Peer, Named),
    first: Option<Grant>,
    shutdown: Shutdown,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Arrival { at, permits, .. } = arrival;
    let deadline = at + state.tunnel.handshake_timeout;
    let socket = Metered::new(socket, state.http2.frames_per_second);
    let opening = tokio::time::timeout_at(deadline.into(), builder(&state.http2).handshake(socket));
    let opened = tokio::select! {
        opened = opening => opened,
        () = permits.handshake.evicted() => return state.metrics.refuse(Rejection::CrowdedOut),
        () = shutdown.draining() => return,
    };
    let connection = match opened {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "HTTP/2 handshake failed");
            return state.metrics.refuse(Rejection::Handshake);
        }
        Err(_) => return state.metrics.refuse(Rejection::HandshakeTimeout),
    };
    let (shares, admitted) = watch::channel(0);
    let line = Line {
        connection,
        requests: JoinSet::new(),
        unread: Unread::default(),
        own: Some(permits),
        first,
        peer,
        ends,
        began: Some(at),
        shares,
        admitted,
        quiet_until: deadline.into(),
        is_closing: false,
        state,
        shutdown,
    };
    Box::pin(line.run()).await;
}

/// A server with the limits of the configuration.
pub(super) fn builder(config: &config::Http2) -> h2::server::Builder {
    let size = config::Http2::size;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(size(config.stream_window))
        .initial_connection_window_size(size(config.connection_window))
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(size(config.header_list_max))
        .max_frame_size(size(config.frame_max))
        .max_send_buffer_size(usize::try_from(config.send_buffer.as_u64()).unwrap_or(usize::MAX))
        .max_pending_accept_reset_streams(config.pending_resets_max)
        .max_local_error_reset_streams(Some(config.local_resets_max))
        .enable_connect_protocol();
    builder
}

/// One connection.
struct Line<S: AsyncRead + AsyncWrite + Unpin> {
    connection: Connection<S, Piece>,
    requests: JoinSet<()>,
    unread: Unread,
    /// What the connection holds itself; its first tunnel takes it.
    own: Option<Permits>,
    /// What the first request was let in for, if it was looked at.
    first: Option<Grant>,
    peer: Peer,
    ends: Named,
    /// When the connection was accepted, for its first tunnel.
    began: Option<Instant>,
    shares: watch::Sender<usize>,
    admitted: watch::Receiver<usize>,
    /// How long it may be without a stream.
    quiet_until: tokio::time::Instant,
    is_closing: bool,
    state: Arc<GatewayState>,
    shutdown: Shutdown,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    async fn run(mut self) {
        let state = Arc::clone(&self.state);
        let mut leaving = pin!(state.drain.leave(tokio::time::Instant::now()));
        let (mut is_leaving, mut is_ending, mut is_aborted, mut ends_at) = (false, false, false, None);
        let close_timeout = state.tunnel.close_timeout;
        loop {
            let is_idle = self.requests.is_empty();
            tokio::select! {
                accepted = poll_fn(|cx| {
                    let accepted = self.connection.poll_accept(cx);
                    let ended = self.unread.bound(unread_limit(&self.state.http2));
                    (0..ended).for_each(|_| self.state.metrics.refuse(Rejection::Unread));
                    accepted
                }) => match accepted {
                    Some(Ok((request, respond))) => self.take(request, respond),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "HTTP/2 connection lost");
                        break;
                    }
                    None => break,
                },
                Some(_) = self.requests.join_next() => self.rest(),
                Ok(()) = self.admitted.changed() => {
                    self.unread.forget_ended();
                    self.set_window();
                }
                () = sleep_until(self.quiet_until), if is_idle => {
                    if self.is_closing {
                        break;
                    }
                    self.close();
                }
                () = evicted(self.own.as_ref()) => {
                    self.state.metrics.refuse(Rejection::CrowdedOut);
                    break;
                }
                leave = &mut leaving, if !is_leaving => {
                    is_leaving = true;
                    ends_at.get_or_insert(leave.due + close_timeout);
                    self.close();
                }
                () = self.shutdown.draining(), if !is_ending => {
                    is_ending = true;
                    self.close();
                }
                () = self.shutdown.aborted(), if !is_aborted => {
                    is_aborted = true;
                    ends_at = Some(tokio::time::Instant::now() + close_timeout);
                }
                () = due(ends_at) => break,
            }
        }
        let Self { connection, mut requests, own, .. } = self;
        if is_leaving && !is_aborted {
            tokio::time::sleep(self.state.http2.linger.min(close_timeout)).await;
        }
        drop((connection, own));
        let ended = async { while requests.join_next().await.is_some() {} };
        if tokio::time::timeout(close_timeout, ended).await.is_err() {
            requests.shutdown().await;
        }
    }

    /// Says that no more streams are taken; the connection ends with the last of those that are open.
    fn close(&mut self) {
        if self.is_closing {
            return;
        }
        self.connection.graceful_shutdown();
        self.is_closing = true;
        self.quiet_until = tokio::time::Instant::now() + self.state.tunnel.close_timeout;
    }

    /// A stream is over; without any, the connection is as silent as a new one.
    fn rest(&mut self) {
        self.unread.forget_ended();
        if !self.requests.is_empty() {
            return;
        }
        let quiet_for = if self.is_closing { self.state.tunnel.close_timeout } else { self.state.http2.idle_timeout };
        self.quiet_until = tokio::time::Instant::now() + quiet_for;
        if self.own.is_none() {
            self.own = self.enter(self.peer.address.ip()).ok();
        }
        if self.own.is_none() && !self.is_closing {
            self.close();
        }
    }

    /// Permits for another stream of the connection, for a client or for a proxy that names none.
    fn enter(&self, ip: IpAddr) -> Result<Permits, Rejection> {
        let limiter = self.state.arrivals.limiter();
        let is_unnamed = self.peer.forwards && ip == self.peer.address.ip();
        if is_unnamed { limiter.enter_unnamed(ip) } else { limiter.enter(ip) }
    }

    /// No stream that stands still can use up what a tunnel needs: each has a stream's window, and the others share one.
    fn set_window(&mut self) {
        let admitted = *self.admitted.borrow_and_update();
        let config = &self.state.http2;
        let each = usize::try_from(config.stream_window.as_u64()).unwrap_or(usize::MAX);
        let window = match admitted {
            0 => usize::try_from(config.connection_window.as_u64()).unwrap_or(usize::MAX),
            _ => each.saturating_mul(admitted).saturating_add(unread_limit(config)),
        };
        self.connection.set_target_window_size(u32::try_from(window).unwrap_or(u32::MAX).min(i32::MAX as u32));
    }

    fn take(&mut self, mut request: Request<RecvStream>, mut respond: SendResponse<Piece>) {
        let state = Arc::clone(&self.state);
        let client = state.arrivals.client(&self.peer, request.headers());
        let asked = match self.first.take().or_else(|| Grant::of(&request, &state)) {
            Some(Grant::Tunnel(asked)) => asked,
            other => {
                let portal_request =
                    if let Some(Grant::Portal(portal_request)) = other { Some(portal_request) } else { None };
                let ends = Named { client: SocketAddr::new(client, self.ends.client.port()), ..self.ends };
                let flow = (!request.body().is_end_stream()).then(|| request.body_mut().flow_control().clone());
                let task = self.requests.spawn(request::answer(state, portal_request, request, respond, ends));
                if let Some(flow) = flow {
                    self.unread.watch(flow, task, None);
                }
                return;
            }
        };
        let permits = match self.own.take() {
            Some(own) if own.handshake.assign_to(client) => Ok(own),
            Some(own) => {
                self.own = Some(own);
                Err(Rejection::PreHello)
            }
            None => self.enter(client),
        };
        let permits = match permits {
            Ok(permits) => permits,
            Err(rejection) => {
                state.metrics.refuse(rejection);
                respond.send_reset(Reason::REFUSED_STREAM);
                return self.rest();
            }
        };
        let Permits { handshake, connection } = permits;
        let at = self.began.take().unwrap_or_else(Instant::now);
        let share = Arc::new(WindowShare::new(self.shares.clone()));
        let (flow, admitted) = (request.body_mut().flow_control().clone(), share.is_claimed());
        let pre_hello = PreHello { handshake, at, agreement: asked.agreement, share: Some(share) };
        let mut response = Response::new(());
        if asked.framing == Framing::Frames {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        }
        if let Some(name) = asked.echo {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        }
        let Ok(send) = respond.send_response(response, false) else { return self.rest() };
        let channel = Channel::accepted(send, request.into_body(), &state.http2);
        let shutdown = self.shutdown.clone();
        let task = self.requests.spawn(async move {
            let run = tunnel::run(state, channel, Bytes::new(), asked.framing, pre_hello, shutdown);
            let refused = Box::pin(run).await;
            drop((refused, connection));
        });
        self.unread.watch(flow, task, Some(admitted));
    }
}

/// What may lie unread of all streams of a connection together that are no tunnel that was admitted.
fn unread_limit(config: &config::Http2) -> usize {
    let size = config.stream_window.as_u64().saturating_add(config.connection_window.as_u64());
    usize::try_from(size).unwrap_or(usize::MAX)
}

async fn evicted(own: Option<&Permits>) {
    match own {
        Some(own) => own.handshake.evicted().await,
        None => std::future::pending().await,
    }
}

async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
