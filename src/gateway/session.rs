//! One client's session: admission, streams, end.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::Shared;
use super::control::ControlError;
use super::egress;
use super::nodes::Exit;
use super::usage::Account;
use crate::api::{AssignOutline, ValidateDevice};
use crate::digest::{fresh_fraction, fresh_number};
use crate::frame::{Hello, HelloOk, SessionCode, StreamCode, Target};
use crate::lifecycle::Shutdown;
use crate::mux::Event;
use crate::net::tunnel::{Patience, Relay, Tunnel, TunnelStream};
use crate::shadowsocks::NodeStream;
use crate::token::TokenError;

const NO_NODE: &str = SessionCode::NoNodeAvailable.as_str();

/// What the streams of a session share.
struct Session {
    shared: Arc<Shared>,
    account: Arc<Account>,
    id: Uuid,
    user: Uuid,
    device: Uuid,
    region: String,
    exit: RwLock<Arc<Exit>>,
    moving: tokio::sync::Mutex<()>,
}

/// Serves a tunnel from its `hello` to its end. `greeted` is dropped once the client has said hello.
pub(super) async fn serve<G>(shared: Arc<Shared>, tunnel: Tunnel, greeted: G, accepted: Instant, shutdown: Shutdown) {
    let hello = tokio::select! {
        hello = tokio::time::timeout(shared.tunnel.hello_timeout, tunnel.next_event()) => hello,
        () = shutdown.draining() => return tunnel.close(Some(SessionCode::GoingAway), ""),
    };
    let hello = match hello {
        Ok(Some(Event::Hello(hello))) => hello,
        Ok(_) => return,
        Err(_) => {
            shared.metrics.refuse("hello_timeout");
            return tunnel.close(None, "");
        }
    };
    drop(greeted);
    let session = match admit(&shared, &tunnel, &hello).await {
        Ok(session) => Arc::new(session),
        Err(code) => {
            shared.metrics.refuse(code.as_str());
            tracing::info!(code = code.as_str(), "session refused");
            return tunnel.close(Some(code), "");
        }
    };
    let open = shared.usage.begin(&session.account);
    tunnel.accept(HelloOk { session_id: session.id.to_string() });
    shared.metrics.handshake.observe(accepted.elapsed().as_secs_f64());
    tracing::info!(session = %session.id, device = %session.device, region = session.region, "session begun");
    let relays = TaskTracker::new();
    let abort = CancellationToken::new();
    open_streams(&session, &tunnel, &relays, &abort, &shutdown).await;
    relays.close();
    if tokio::time::timeout(shared.tunnel.close_timeout, relays.wait()).await.is_err() {
        abort.cancel();
        relays.wait().await;
    }
    drop(open);
    let code = session.account.cut_code().map_or("closed", SessionCode::as_str);
    tracing::info!(session = %session.id, code, "session over");
}

/// Checks the token here, then asks the control plane once for everything.
async fn admit(shared: &Arc<Shared>, tunnel: &Tunnel, hello: &Hello) -> Result<Session, SessionCode> {
    if shared.refuses_sessions() {
        return Err(SessionCode::GoingAway);
    }
    if !shared.keys.is_ready() {
        return Err(SessionCode::ControlUnavailable);
    }
    let device: Uuid = hello.device_id.parse().map_err(|_| SessionCode::InvalidToken)?;
    let claims = shared.keys.verify(hello.access_token.expose()).await.map_err(|error| match error {
        TokenError::Expired => SessionCode::TokenExpired,
        TokenError::Invalid | TokenError::UnknownKey => SessionCode::InvalidToken,
    })?;
    if claims.sub != device {
        return Err(SessionCode::InvalidToken);
    }
    let id = Uuid::now_v7();
    let text = |text: &str| (!text.is_empty()).then(|| text.chars().take(64).collect());
    let request = ValidateDevice {
        device_id: device,
        access_token: hello.access_token.clone(),
        region: hello.region.clone(),
        assign: true,
        session_id: Some(id),
        exclude: shared.nodes.down(),
        client_version: text(&hello.client_version),
        platform: text(&hello.platform),
    };
    let answer = shared.control.validate(&request).await.map_err(|error| unavailable(&error))?;
    if !answer.ok {
        return Err(answer.code.unwrap_or(SessionCode::Internal));
    }
    let node = answer.node.ok_or(SessionCode::NoNodeAvailable)?;
    let exit = shared.nodes.exit(node).map_err(|reason| {
        tracing::error!(reason, "an assigned node cannot be used");
        SessionCode::NoNodeAvailable
    })?;
    let account =
        Account::new(id, device, hello.access_token.clone(), answer.remaining_bytes, tunnel.clone(), &shared.metrics);
    Ok(Session {
        shared: Arc::clone(shared),
        account: Arc::new(account),
        id,
        user: claims.uid,
        device,
        region: hello.region.clone(),
        exit: RwLock::new(exit),
        moving: tokio::sync::Mutex::new(()),
    })
}

fn unavailable(error: &ControlError) -> SessionCode {
    tracing::warn!(%error, "a device cannot be validated");
    match error {
        ControlError::Refused { status, .. } if status.is_client_error() => SessionCode::Internal,
        ControlError::Refused { .. } | ControlError::Unreachable(_) => SessionCode::ControlUnavailable,
    }
}

/// Starts a relay for each stream until the connection is gone; drains when told to.
async fn open_streams(
    session: &Arc<Session>,
    tunnel: &Tunnel,
    relays: &TaskTracker,
    abort: &CancellationToken,
    shutdown: &Shutdown,
) {
    let config = &session.shared.gateway;
    let mut deadline: Option<(tokio::time::Instant, tokio::time::Instant)> = None;
    loop {
        let event = tokio::select! {
            event = tunnel.next_event() => event,
            () = shutdown.draining(), if deadline.is_none() => {
                let jitter = config.drain_jitter.mul_f64(fresh_fraction());
                tunnel.drain(jitter);
                let now = tokio::time::Instant::now();
                deadline = Some((now + jitter, now + config.drain_timeout));
                continue;
            }
            () = idle_or_due(tunnel, deadline), if deadline.is_some() && session.account.cut_code().is_none() => {
                session.account.cut(SessionCode::GoingAway);
                continue;
            }
            () = shutdown.aborted() => {
                session.account.cut(SessionCode::GoingAway);
                return;
            }
        };
        match event {
            Some(Event::Opened { key, target, udp }) => {
                let stream = tunnel.stream(key);
                let (session, abort) = (Arc::clone(session), abort.clone());
                relays.spawn(async move {
                    session.shared.metrics.streams.inc();
                    tokio::select! {
                        ended = session.relay(stream, target, udp) => if let Err(code) = ended {
                            session.shared.metrics.refuse_stream(code.as_str());
                        },
                        () = abort.cancelled() => {}
                    }
                    session.shared.metrics.streams.dec();
                });
            }
            Some(
                Event::Hello(_)
                | Event::Accepted(_)
                | Event::GoingAway { .. }
                | Event::Ended { .. }
                | Event::Wake(_)
                | Event::WakeAll,
            ) => {}
            None => return,
        }
    }
}

/// Resolves when a draining session had time to hear of it and has no streams, or no time left.
async fn idle_or_due(tunnel: &Tunnel, times: Option<(tokio::time::Instant, tokio::time::Instant)>) {
    let Some((heard, deadline)) = times else { return std::future::pending().await };
    let due = tokio::time::sleep_until(deadline);
    let idle = async {
        tokio::time::sleep_until(heard).await;
        while tunnel.stream_count() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = due => {}
        () = idle => {}
    }
}

impl Session {
    async fn relay(&self, mut stream: TunnelStream, target: Target, udp: bool) -> Result<(), StreamCode> {
        let dialled = if udp {
            Err(StreamCode::Refused)
        } else {
            match egress::admit(target, &self.shared.egress).await {
                Ok(target) => self.dial(target).await,
                Err(code) => Err(code),
            }
        };
        match dialled {
            Ok(node) => {
                let idle = self.shared.relay.idle_timeout;
                Relay::new(
                    stream,
                    node,
                    &*self.account,
                    Patience { idle, half_open: idle, linger: self.shared.relay.linger },
                )
                .run()
                .await
            }
            Err(code) => {
                stream.reset(code);
                Err(code)
            }
        }
    }

    fn exit(&self) -> Arc<Exit> {
        Arc::clone(&self.exit.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Connects to the session's node; if it cannot be reached, moves the session to another one and tries once more.
    async fn dial(&self, target: Target) -> Result<NodeStream, StreamCode> {
        let exit = self.exit();
        let exit = self.shared.nodes.latest(&exit).unwrap_or(exit);
        if let Some(stream) = self.try_dial(&exit, target.clone()).await {
            return Ok(stream);
        }
        let exit = self.move_from(&exit).await.ok_or(StreamCode::NodeDown)?;
        self.try_dial(&exit, target).await.ok_or(StreamCode::NodeDown)
    }

    async fn try_dial(&self, exit: &Exit, target: Target) -> Option<NodeStream> {
        let started = Instant::now();
        let relay = &self.shared.relay;
        match exit.dial(target, relay.dial_timeout, relay.coalesce).await {
            Ok(stream) => {
                let label = exit.id.to_string();
                self.shared.metrics.node_dial.with_label_values(&[&label]).observe(started.elapsed().as_secs_f64());
                Some(stream)
            }
            Err(error) => {
                tracing::warn!(session = %self.id, node = %exit.id, %error, "a node cannot be reached");
                self.shared.nodes.reached(exit.id, false);
                None
            }
        }
    }

    /// Another node for the session's new streams; streams that wait for it at once ask once.
    async fn move_from(&self, failed: &Exit) -> Option<Arc<Exit>> {
        let _turn = self.moving.lock().await;
        let current = self.exit();
        if current.id != failed.id {
            return Some(current);
        }
        let request = AssignOutline {
            region: self.region.clone(),
            user_id: self.user,
            device_id: self.device,
            session_id: Some(self.id),
            exclude: self.shared.nodes.down(),
        };
        let exit = match self.shared.control.assign(&request).await {
            Ok(assigned) => self.shared.nodes.exit(assigned.node).ok(),
            Err(ControlError::Refused { status, code }) if status.is_client_error() || code == NO_NODE => None,
            Err(_) => self.shared.nodes.other(failed, fresh_number()),
        }?;
        *self.exit.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&exit);
        Some(exit)
    }
}
