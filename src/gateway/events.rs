//! Follows the control plane's events and acts on them (docs/04, "Events").

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sse_stream::SseStream;
use uuid::Uuid;

use super::Shared;
use super::control::ControlError;
use crate::api::{Event, EventAck, EventKind};
use crate::digest::fresh_fraction;
use crate::frame::SessionCode;
use crate::lifecycle::Shutdown;

const RETRY: Duration = Duration::from_millis(500);

/// The last event that was acted on.
type Place = Option<(String, i64)>;

/// Follows until drained.
pub(super) async fn run(shared: &Arc<Shared>, shutdown: &Shutdown) {
    let mut place: Place = None;
    loop {
        tokio::select! {
            () = shutdown.draining() => return,
            ended = follow(shared, &mut place) => if let Err(reason) = ended {
                tracing::debug!(reason, "the stream of events ended");
            },
        }
        tokio::select! {
            () = shutdown.draining() => return,
            () = tokio::time::sleep(RETRY.mul_f64(0.5 + fresh_fraction())) => {}
        }
    }
}

async fn follow(shared: &Arc<Shared>, place: &mut Place) -> Result<(), String> {
    let failed = |error: ControlError| error.to_string();
    let before = shared.usage.known();
    let response = shared.control.events(place.as_ref()).await.map_err(failed)?;
    let bytes = lively(response.bytes_stream(), shared.gateway.events_timeout);
    let mut events = std::pin::pin!(SseStream::from_bytes_stream(bytes));
    while let Some(message) = events.next().await {
        let Some(data) = message.map_err(|error| error.to_string())?.data else { continue };
        let event: Event = serde_json::from_str(&data).map_err(|error| error.to_string())?;
        act(shared, &event, &before).await;
        *place = Some((event.epoch.clone(), event.seq));
        let ack = EventAck { epoch: event.epoch, seq: event.seq };
        shared.control.ack(&ack).await.map_err(failed)?;
    }
    Ok(())
}

/// A stream of bytes that fails when none come for a time.
fn lively(
    bytes: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static,
    patience: Duration,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::unfold(Box::pin(bytes), move |mut bytes| async move {
        let chunk = match tokio::time::timeout(patience, bytes.next()).await {
            Ok(chunk) => chunk?.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        Some((chunk, bytes))
    })
}

async fn act(shared: &Arc<Shared>, event: &Event, before: &[Uuid]) {
    tracing::debug!(seq = event.seq, kind = event.kind.as_str(), "event");
    let code = event.code.unwrap_or(SessionCode::SessionKilled);
    match (event.kind, event.subject) {
        (EventKind::Snapshot, _) => {
            shared.keys.renew();
            tokio::join!(shared.heartbeat(), shared.usage.report_all(&shared.control));
            let listed: HashSet<Uuid> = event.sessions.iter().copied().collect();
            let unlisted = |session: &Uuid| before.binary_search(session).is_ok() && !listed.contains(session);
            shared.usage.cut(|account| unlisted(&account.session()), SessionCode::SessionKilled);
        }
        (EventKind::UserStopped, Some(user)) => {
            shared.acquaintances.forget_user(user);
            shared.usage.cut(|account| account.user() == user, code);
        }
        (EventKind::DeviceStopped, Some(device)) => {
            shared.acquaintances.forget(device);
            shared.usage.cut(|account| account.device() == device, code);
        }
        (EventKind::SessionStopped, Some(session)) => shared.usage.cut(|account| account.session() == session, code),
        (EventKind::UserChanged, Some(user)) => user_changed(shared, user).await,
        (EventKind::PlanChanged, _) => shared.usage.report_all(&shared.control).await,
        (EventKind::NodesChanged | EventKind::GatewayChanged, _) => {
            shared.heartbeat().await;
        }
        (EventKind::KeysChanged, _) => shared.keys.renew(),
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

async fn user_changed(shared: &Arc<Shared>, user: Uuid) {
    shared.acquaintances.forget_user(user);
    shared.usage.report_those(&shared.control, |account| account.user() == user).await;
}
