//! One client's session: admission, streams, end.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::accept::Place;
use super::account::Account;
use super::control::ControlError;
use super::egress::Lookups;
use super::nodes::Exit;
use super::{Shared, admission, association, egress};
use crate::api::AssignOutline;
use crate::digest::{fresh_fraction, fresh_number};
use crate::frame::{Encoding, Notice, SessionCode, StreamCode, Target};
use crate::lifecycle::Shutdown;
use crate::mux::Event;
use crate::net::tunnel::{Patience, Relay, Tunnel, TunnelStream};
use crate::shadowsocks::NodeStream;

const NO_NODE: &str = SessionCode::NoNodeAvailable.as_str();

/// What the streams of a session share.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) account: Arc<Account>,
    pub(super) id: Uuid,
    pub(super) user: Uuid,
    pub(super) device: Uuid,
    pub(super) region: String,
    pub(super) exit: RwLock<Arc<Exit>>,
    pub(super) moving: tokio::sync::Mutex<()>,
    pub(super) lookups: Lookups,
}

/// What came before `hello`.
pub(super) struct Greeted {
    /// Given back once the client is admitted.
    pub(super) place: Place,
    pub(super) at: Instant,
    pub(super) bearer: Option<Uuid>,
    pub(super) encoding: Encoding,
}

/// Serves a tunnel from its `hello` to its end; one that was not admitted gives its place back, to be held while the
/// connection lasts.
pub(super) async fn serve(shared: Arc<Shared>, tunnel: Tunnel, greeted: Greeted, shutdown: Shutdown) -> Option<Place> {
    let hello = tokio::select! {
        hello = tokio::time::timeout(shared.tunnel.hello_timeout, tunnel.next_event()) => hello,
        () = shutdown.draining() => {
            tunnel.close(Some(SessionCode::GoingAway), "");
            return Some(greeted.place);
        }
    };
    let hello = match hello {
        Ok(Some(Event::Hello(hello))) => hello,
        Ok(_) => return Some(greeted.place),
        Err(_) => {
            shared.metrics.refuse("hello_timeout");
            tunnel.close(None, "");
            return Some(greeted.place);
        }
    };
    let Greeted { place, at, bearer, encoding } = greeted;
    let admitted = match admission::admit(&shared, &tunnel, &hello, bearer).await {
        Ok(admitted) => admitted,
        Err(code) => {
            shared.metrics.refuse(code.as_str());
            tracing::info!(code = code.as_str(), "session refused");
            if code.is_final() {
                tunnel.close(Some(code), "");
            } else {
                tunnel.refuse(code, shared.tunnel.retry_after.mul_f64(0.5 + fresh_fraction()));
            }
            return Some(place);
        }
    };
    drop(place);
    let session = Arc::new(admitted.session);
    let open = shared.usage.begin(&session.account);
    tunnel.accept(admission::consent(&shared, &tunnel, &hello, session.id, encoding));
    session.account.enforce();
    if let Some(notice) = admitted.expiry {
        tunnel.notice(notice);
    }
    shared.metrics.handshake.observe(at.elapsed().as_secs_f64());
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
    None
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
                let within_ms = u64::try_from(config.drain_timeout.as_millis()).unwrap_or(u64::MAX);
                tunnel.notice(Notice::Maintenance { within_ms });
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
            Some(Event::Opened { key, target }) => {
                let stream = tunnel.stream(key);
                let (session, abort) = (Arc::clone(session), abort.clone());
                relays.spawn(async move {
                    session.shared.metrics.streams.inc();
                    tokio::select! {
                        ended = session.run(stream, target) => if let Err(code) = ended {
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
                | Event::Notice(_)
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
    async fn run(&self, stream: TunnelStream, target: Option<Target>) -> Result<(), StreamCode> {
        let ended = match target {
            Some(target) => match self.dial_unless_gone(&stream, target).await {
                Ok(node) => return self.relay(stream, node).await,
                Err(code) => Err(code),
            },
            None => self.associate(&stream).await,
        };
        match ended {
            Ok(()) => stream.finish(),
            Err(code) => stream.reset(code),
        }
        ended
    }

    async fn dial_unless_gone(&self, stream: &TunnelStream, target: Target) -> Result<NodeStream, StreamCode> {
        tokio::select! {
            dialled = self.dial(target) => dialled,
            () = stream.gone() => Err(StreamCode::Cancelled),
        }
    }

    async fn relay(&self, stream: TunnelStream, node: NodeStream) -> Result<(), StreamCode> {
        let idle = self.shared.relay.idle_timeout;
        let patience = Patience { idle, half_open: idle, linger: self.shared.relay.linger };
        Relay::new(stream, node, &*self.account, patience).run().await
    }

    async fn associate(&self, stream: &TunnelStream) -> Result<(), StreamCode> {
        let exit = self.exit();
        let exit = self.shared.nodes.latest(&exit).unwrap_or(exit);
        let node = exit.associate().await.map_err(|error| {
            tracing::warn!(session = %self.id, node = %exit.id, %error, "no socket towards a node");
            StreamCode::NodeDown
        })?;
        association::run(stream, &node, self).await
    }

    fn exit(&self) -> Arc<Exit> {
        Arc::clone(&self.exit.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Checks the destination and connects to the session's node; if it cannot be reached, moves the session to another one and tries once more.
    async fn dial(&self, target: Target) -> Result<NodeStream, StreamCode> {
        let target = egress::admit(target, &self.shared.egress, &self.lookups).await?;
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
