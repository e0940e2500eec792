//! Runs a client's tunnel: `hello`, admission, streams, end.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Refused, Stops};
use super::connection_limiter::HandshakePermit;
use super::drain::Leave;
use super::rejection::Rejection;
use super::resume::{Held, Served};
use super::session::Session;
use super::upgrade::Agreement;
use super::window_share::WindowShare;
use super::{GatewayState, admission, resume};
use crate::digest::fresh_fraction;
use crate::frame::{Encoding, Feature, Notice, SessionCode};
use crate::lifecycle::Shutdown;
use crate::mux::{Event, Role};
use crate::net::tunnel::{Carrier, Driver, Framing, Transport, Tunnel};

/// How soon a v1 client moves that is told of a shutdown (docs/03, "Draining").
const V1_MOVES_WITHIN: Duration = Duration::from_secs(5);

/// What came before `hello`.
pub(super) struct PreHello {
    /// Returned once the client is admitted.
    pub(super) handshake: HandshakePermit,
    pub(super) at: Instant,
    pub(super) agreement: Agreement,
    /// The tunnel's part of a connection that it shares with others.
    pub(super) share: Option<Arc<WindowShare>>,
}

/// Runs a tunnel that was agreed on over what carries it; one that was not admitted returns its permit.
pub(super) async fn run<C: Carrier>(
    state: Arc<GatewayState>,
    carrier: C,
    read: Bytes,
    framing: Framing,
    pre_hello: PreHello,
    shutdown: Shutdown,
) -> Option<HandshakePermit> {
    let transport = match (framing, &pre_hello.share) {
        (Framing::Frames, _) => "h2",
        (Framing::WebSocket(_), Some(_)) => "h2ws",
        (Framing::WebSocket(_), None) => "ws",
    };
    state.metrics.tunnels.with_label_values(&[transport]).inc();
    let encoding = pre_hello.agreement.encoding;
    let tunnel = Tunnel::new(Role::Gateway, encoding, Arc::clone(&state.limits));
    let transport = Transport {
        framing,
        encoding,
        message_max: state.message_max(encoding),
        hello_max: usize::try_from(state.tunnel.hello_max.as_u64()).unwrap_or(usize::MAX),
        fragments_max: state.tunnel.fragments_max,
        close_timeout: state.tunnel.close_timeout,
    };
    let share = pre_hello.share.clone();
    let mut driving = pin!(Driver::new(carrier, read, tunnel.clone(), transport).run());
    let mut serving = Box::pin(serve(state, tunnel.clone(), pre_hello, shutdown.clone()));
    let (ended, handshake) = tokio::select! {
        ended = &mut driving => (ended, None),
        handshake = &mut serving => (driving.await, Some(handshake)),
    };
    tracing::debug!(reason = %ended, "connection ended");
    match handshake {
        Some(handshake) => handshake,
        None if tunnel.is_gone() => serving.await,
        None => {
            if let Some(share) = share {
                share.release();
            }
            shutdown.spawn(async move { drop(serving.await) });
            None
        }
    }
}

/// Serves a tunnel from its `hello` to its end; returns the permit of a client that was not admitted.
async fn serve(
    state: Arc<GatewayState>,
    tunnel: Tunnel,
    pre_hello: PreHello,
    shutdown: Shutdown,
) -> Option<HandshakePermit> {
    let hello = tokio::select! {
        hello = tokio::time::timeout(state.tunnel.hello_timeout, tunnel.next_event()) => hello,
        () = pre_hello.handshake.evicted() => {
            state.metrics.refuse(Rejection::CrowdedOut);
            tunnel.close(None, "");
            return Some(pre_hello.handshake);
        }
        () = shutdown.draining() => {
            tunnel.close(None, "");
            return Some(pre_hello.handshake);
        }
    };
    let hello = match hello {
        Ok(Some(Event::Hello(hello))) => hello,
        Ok(_) => return Some(pre_hello.handshake),
        Err(_) => {
            state.metrics.refuse(Rejection::HelloTimeout);
            tunnel.close(None, "");
            return Some(pre_hello.handshake);
        }
    };
    let PreHello { mut handshake, at, agreement, share } = pre_hello;
    handshake.said_hello();
    if hello.resume.is_some() && resume::take_up(&state, &tunnel, &hello, agreement) {
        if let Some(share) = &share {
            share.claim();
        }
        return None;
    }
    let admitted = match admission::admit(&state, &tunnel, &hello, agreement).await {
        Ok(admitted) => admitted,
        Err(Refused { code, support_id }) => {
            state.metrics.refuse_session(code);
            tracing::info!(code = code.as_str(), support_id, "session refused");
            let message = format!("{} (support id {support_id})", code.as_str());
            if code.is_final() {
                tunnel.close(Some(code), &message);
            } else {
                tunnel.refuse(code, &message, state.tunnel.retry_after.mul_f64(0.5 + fresh_fraction()));
            }
            return Some(handshake);
        }
    };
    drop(handshake);
    if let Some(share) = &share {
        share.claim();
    }
    let session = Arc::new(admitted.session);
    let (open, served) = (state.usage.begin(&session.account), Served(&session));
    tunnel.charge(Arc::clone(session.account.share()));
    tunnel.pace(session.account.pacer());
    let resumable = if tunnel.can_resume(hello.features) { state.resumptions.issue(&session, None) } else { None };
    tunnel.accept(admission::consent(&state, &tunnel, &hello, session.id, agreement.encoding, resumable));
    session.account.enforce();
    session.account.remind(session.account.valid_until());
    let stops = Stops::of(&state);
    if stops.devices != admitted.stops.devices {
        if session.account.is_known() {
            state.offline.forget(session.device);
        } else if state.offline.lookup(session.device, &session.region).is_none() {
            session.account.cut(SessionCode::ControlUnavailable);
        }
    }
    if stops != admitted.stops {
        state.usage.report_queue().add(session.id);
    }
    state.metrics.handshake.observe(at.elapsed().as_secs_f64());
    tracing::info!(session = %session.id, device = %session.device, region = session.region, "session started");
    let relays = TaskTracker::new();
    let abort = CancellationToken::new();
    let signal = match agreement.encoding {
        Encoding::V2 => DrainSignal::GoAway,
        Encoding::V1 if hello.features.has(Feature::Notice) => DrainSignal::Notices,
        Encoding::V1 => DrainSignal::Nothing,
    };
    open_streams(&session, &tunnel, (&relays, &abort), &shutdown, signal).await;
    relays.close();
    if tokio::time::timeout(state.tunnel.close_timeout, relays.wait()).await.is_err() {
        abort.cancel();
        relays.wait().await;
    }
    drop((open, served));
    let cut = session.account.cut_code();
    if cut.is_some_and(|code| code.is_final() && code != SessionCode::SessionKilled) {
        state.offline.forget(session.device);
    }
    let code = cut.map_or("closed", SessionCode::as_str);
    tracing::info!(session = %session.id, code, "session ended");
    None
}

/// How a client is asked to move.
#[derive(Clone, Copy)]
enum DrainSignal {
    GoAway,
    Notices,
    Nothing,
}

/// Starts a relay for each stream until the connection is gone; sends the client away when it is time.
async fn open_streams(
    session: &Arc<Session>,
    tunnel: &Tunnel,
    (relays, abort): (&TaskTracker, &CancellationToken),
    shutdown: &Shutdown,
    signal: DrainSignal,
) {
    let mut leaving = pin!(session.state.drain.leave(tokio::time::Instant::now()));
    let mut departure = None;
    let resumptions = &session.state.resumptions;
    let mut held: Option<Held<'_>> = None;
    loop {
        let event = tokio::select! {
            event = tunnel.next_event() => event,
            leave = &mut leaving, if departure.is_none() => {
                departure = Some(ask_to_move(tunnel, leave, signal));
                continue;
            }
            () = drained(tunnel, departure), if departure.is_some() && session.account.cut_code().is_none() => {
                session.account.cut(SessionCode::GoingAway);
                continue;
            }
            () = given_up(held.as_ref()), if held.is_some() => {
                tunnel.give_up();
                continue;
            }
            () = shutdown.aborted() => {
                session.account.cut(SessionCode::GoingAway);
                return;
            }
        };
        match event {
            Some(Event::Held) => {
                held = Some(resumptions.hold(session));
                session.state.usage.report_queue().add(session.id);
            }
            Some(Event::Resumed) => {
                held = None;
                session.state.usage.report_queue().add(session.id);
                if let Some((_, due)) = departure {
                    tunnel.drain(Duration::ZERO);
                    tunnel.notice(maintenance(due));
                }
            }
            Some(Event::Opened { key, target }) => {
                let stream = tunnel.stream(key);
                let (session, abort) = (Arc::clone(session), abort.clone());
                relays.spawn(async move {
                    session.state.metrics.streams.inc();
                    tokio::select! {
                        ended = session.run(stream, target) => if let Err(code) = ended {
                            session.state.metrics.refuse_stream(code.as_str());
                        },
                        () = abort.cancelled() => {}
                    }
                    session.state.metrics.streams.dec();
                });
            }
            Some(
                Event::Hello(_)
                | Event::Accepted(_)
                | Event::GoingAway { .. }
                | Event::Notice(_)
                | Event::Ended { .. }
                | Event::Wake(_)
                | Event::WakeAll,
            ) => {}
            None => return,
        }
    }
}

/// Resolves when a session was held for long enough.
async fn given_up(held: Option<&Held<'_>>) {
    match held {
        Some(held) => tokio::time::sleep_until(held.until).await,
        None => std::future::pending().await,
    }
}

/// Tells the client to go; gives when it has moved, and when the session ends.
fn ask_to_move(tunnel: &Tunnel, leave: Leave, signal: DrainSignal) -> (tokio::time::Instant, tokio::time::Instant) {
    let Leave { reconnect_in, moved, due } = leave;
    let now = tokio::time::Instant::now();
    tunnel.drain(reconnect_in);
    tunnel.notice(maintenance(due));
    let moved = match signal {
        DrainSignal::GoAway => moved,
        DrainSignal::Notices => moved + V1_MOVES_WITHIN.saturating_sub(reconnect_in),
        DrainSignal::Nothing => now + reconnect_in,
    };
    (moved, due)
}

fn maintenance(due: tokio::time::Instant) -> Notice {
    let within = due.saturating_duration_since(tokio::time::Instant::now());
    Notice::Maintenance { within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX) }
}

/// Resolves when the client of a draining session had time to move and has no streams here, or no time is left.
async fn drained(tunnel: &Tunnel, departure: Option<(tokio::time::Instant, tokio::time::Instant)>) {
    let Some((moved, due)) = departure else { return std::future::pending().await };
    let is_over = async {
        tokio::time::sleep_until(moved).await;
        tunnel.refuse_streams();
        while tunnel.stream_count() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = tokio::time::sleep_until(due) => {}
        () = is_over => {}
    }
}
