//! Follows the control plane's events and acts on them (docs/04, "Events").

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sse_stream::SseStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::GatewayState;
use super::control::ControlError;
use super::persist::Name;
use crate::api::{Event, EventAck, EventKind};
use crate::digest::fresh_fraction;
use crate::frame::SessionCode;
use crate::lifecycle::Shutdown;

/// Pause after a stream that ended well.
const AGAIN: Duration = Duration::from_millis(50);

/// What the control plane sends when it has sent nothing for a third of `gateway.events_timeout`.
const KEEPALIVE: &[u8] = b":\n\n";

/// Why a stream of events was not followed to its end.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("it did not begin")]
    NotBegun,
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Stream(#[from] sse_stream::Error),
    #[error(transparent)]
    Event(#[from] serde_json::Error),
    #[error("the control plane did not answer what events ask for")]
    Unanswered,
}

/// The last event that was acted on.
pub(super) type EventCursor = Option<(String, i64)>;

/// What events ask for that takes the control plane's answer; more of the same is done at once.
#[derive(Default)]
struct Work {
    /// The gateway's sessions that may go on, and that it had when it asked.
    listed: Option<(HashSet<Uuid>, Vec<Uuid>)>,
    everybody: bool,
    users: HashSet<Uuid>,
    nodes: bool,
    /// Where the stream is once this is done.
    cursor: EventCursor,
}

#[derive(Default)]
struct PendingWork {
    work: Mutex<Work>,
    changed: Notify,
    /// The stream has ended: nothing more will come.
    closed: AtomicBool,
}

impl PendingWork {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows from a cursor until drained.
pub(super) async fn run(state: &Arc<GatewayState>, mut cursor: EventCursor, shutdown: &Shutdown) {
    loop {
        let ended = tokio::select! {
            () = shutdown.draining() => return,
            ended = follow(state, &mut cursor) => ended,
        };
        let pause = match ended {
            Ok(()) => AGAIN,
            Err(reason) => {
                tracing::debug!(%reason, "event stream ended");
                state.gateway.events_retry
            }
        };
        tokio::select! {
            () = shutdown.draining() => return,
            () = tokio::time::sleep(pause.mul_f64(0.5 + fresh_fraction())) => {}
        }
    }
}

/// Reads and works side by side, so that nobody who is stopped waits for a report.
async fn follow(state: &Arc<GatewayState>, cursor: &mut EventCursor) -> Result<(), FollowError> {
    let before = state.usage.known();
    let Some(response) = state.control.events(cursor.as_ref()).await? else {
        if state.heartbeat().await {
            state.events_are_late();
        }
        return Err(FollowError::NotBegun);
    };
    let bytes = with_timeout(Arc::clone(state), response.bytes_stream());
    let pending = PendingWork::default();
    let reading = async {
        read(state, SseStream::from_bytes_stream(bytes), &pending, before).await?;
        pending.closed.store(true, Ordering::Release);
        pending.changed.notify_one();
        Ok(())
    };
    tokio::try_join!(reading, work(state, &pending, cursor)).map(|_| ())
}

/// A stream of bytes that fails when none come for a time; that they are late, or come in bursts, is said once.
fn with_timeout(
    state: Arc<GatewayState>,
    bytes: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let timeout = state.gateway.events_timeout;
    futures_util::stream::unfold((state, Box::pin(bytes)), move |(state, mut bytes)| async move {
        let started = Instant::now();
        let mut next = timeout_at(started + timeout / 3 * 2, bytes.next()).await;
        if next.is_err() {
            state.events_are_late();
            next = timeout_at(started + timeout, bytes.next()).await;
        }
        let chunk = match next {
            Ok(chunk) => chunk?.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        if chunk.as_ref().is_ok_and(|chunk| was_held(chunk, started.elapsed(), timeout)) {
            state.events_are_late();
        }
        Some((chunk, (state, bytes)))
    })
}

/// Whether bytes that came so long after others show that something holds the stream back: a keepalive follows silence.
fn was_held(chunk: &[u8], after: Duration, timeout: Duration) -> bool {
    let both = [KEEPALIVE, KEEPALIVE].concat();
    let at_once = after < timeout / 30 && chunk.starts_with(KEEPALIVE);
    at_once || chunk.windows(both.len()).any(|part| part == both)
}

/// Stops sessions at once and leaves the rest as pending work.
async fn read(
    state: &GatewayState,
    messages: impl Stream<Item = Result<sse_stream::Sse, sse_stream::Error>>,
    pending: &PendingWork,
    before: Vec<Uuid>,
) -> Result<(), FollowError> {
    let mut messages = std::pin::pin!(messages);
    let mut before = Some(before);
    while let Some(message) = messages.next().await {
        let Some(data) = message?.data else { continue };
        let event: Event = serde_json::from_str(&data)?;
        tracing::debug!(seq = event.seq, kind = event.kind.as_str(), "event");
        stop(state, &event);
        {
            let mut work = pending.work();
            work.add(&event, &mut before);
            work.cursor = Some((event.epoch, event.seq));
        }
        pending.changed.notify_one();
    }
    Ok(())
}

impl Work {
    fn add(&mut self, event: &Event, before: &mut Option<Vec<Uuid>>) {
        match (event.kind, event.subject) {
            (EventKind::Snapshot, _) => {
                let listed = event.sessions.iter().copied().collect();
                self.listed = Some((listed, before.take().unwrap_or_default()));
                (self.everybody, self.nodes) = (true, true);
            }
            (EventKind::UserChanged, Some(user)) => {
                self.users.insert(user);
            }
            (EventKind::PlanChanged, _) => self.everybody = true,
            (EventKind::NodesChanged | EventKind::GatewayChanged, _) => self.nodes = true,
            (
                EventKind::UserStopped
                | EventKind::DeviceStopped
                | EventKind::SessionStopped
                | EventKind::UserChanged
                | EventKind::Unknown,
                _,
            ) => {}
        }
    }
}

fn stop(state: &GatewayState, event: &Event) {
    let code = event.code.unwrap_or(SessionCode::SessionKilled);
    if event.kind == EventKind::SessionStopped {
        state.session_stops.fetch_add(1, Ordering::Release);
    } else if !matches!(event.kind, EventKind::NodesChanged | EventKind::GatewayChanged) {
        state.stops.fetch_add(1, Ordering::Release);
    }
    match (event.kind, event.subject) {
        (EventKind::Snapshot, _) => {
            state.keys.renew();
            let going: HashSet<Uuid> = event.sessions.iter().copied().collect();
            let devices = state.usage.devices(|account| going.contains(&account.session()));
            state.offline.forget_those(|device, _| !devices.contains(&device));
        }
        (EventKind::UserStopped, Some(user)) => {
            state.offline.forget_those(|_, known| known.user == user);
            state.usage.cut(|account| account.user() == user, code);
        }
        (EventKind::DeviceStopped, Some(device)) => {
            state.offline.forget(device);
            state.usage.cut(|account| account.device() == device, code);
        }
        (EventKind::SessionStopped, Some(session)) => state.usage.cut(|account| account.session() == session, code),
        (EventKind::UserChanged, Some(user)) => state.offline.forget_those(|_, known| known.user == user),
        (
            EventKind::UserStopped
            | EventKind::DeviceStopped
            | EventKind::SessionStopped
            | EventKind::UserChanged
            | EventKind::PlanChanged
            | EventKind::NodesChanged
            | EventKind::GatewayChanged
            | EventKind::Unknown,
            _,
        ) => {}
    }
}

/// Does the pending work, then acknowledges, until the stream has ended; what fails is asked for again by a new one.
async fn work(state: &Arc<GatewayState>, pending: &PendingWork, cursor: &mut EventCursor) -> Result<(), FollowError> {
    loop {
        pending.changed.notified().await;
        let closed = pending.closed.load(Ordering::Acquire);
        let work = std::mem::take(&mut *pending.work());
        let Some((epoch, seq)) = work.cursor.clone() else {
            if closed {
                return Ok(());
            }
            continue;
        };
        let nodes = async { !work.nodes || state.heartbeat().await };
        let reports = async {
            if work.everybody {
                return state.usage.report_all(&state.control).await;
            }
            let users = &work.users;
            users.is_empty()
                || state.usage.report_those(&state.control, |account| users.contains(&account.user())).await
        };
        let (nodes, reports) = tokio::join!(nodes, reports);
        if !nodes || !reports {
            return Err(FollowError::Unanswered);
        }
        if let Some((listed, before)) = &work.listed {
            let unlisted = |session: Uuid| before.binary_search(&session).is_ok() && !listed.contains(&session);
            state.usage.cut(|account| unlisted(account.session()), SessionCode::SessionKilled);
        }
        *cursor = work.cursor;
        state.persist.set(Name::Cursor, cursor);
        state.persist.flush(&state.offline).await;
        let ack = EventAck { epoch, seq, instance: Some(state.instance) };
        state.control.ack(&ack).await?;
        if closed {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keepalive_right_behind_something_was_held() {
        let held = |chunk: &[u8], ms| was_held(chunk, Duration::from_millis(ms), Duration::from_secs(30));
        assert!(!held(b":\n\n", 10_000) && held(b":\n\n", 5));
        assert!(held(b"data: {}\n\n:\n\n:\n\n", 10_000));
        assert!(!held(b"data: {}\n\n", 5) && !held(b"data: {}\n\n:\n\n", 10_000));
    }
}
