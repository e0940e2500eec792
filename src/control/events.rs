//! Events for gateways: written in the changing transaction, followed by every replica (docs/02, "Events").

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::db::{Db, DbError, Listener, on};
use super::models::EventRow;
use crate::api::{Event, EventKind};
use crate::config;
use crate::control::db::types::Id;
use crate::frame::SessionCode;
use crate::lifecycle::Shutdown;

const AT_ONCE: i64 = 1000;
const ACK_POLL: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);

/// What a transaction tells gateways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emit {
    pub(crate) kind: EventKind,
    /// The user, device, session, plan, node or gateway.
    pub(crate) subject: Option<Id>,
    /// How sessions end.
    pub(crate) code: Option<SessionCode>,
}

impl Emit {
    /// An event that ends nothing by itself.
    pub(crate) fn changed(kind: EventKind, subject: Id) -> Self {
        Self { kind, subject: Some(subject), code: None }
    }

    /// An event that ends sessions with a code.
    pub(crate) fn stopped(kind: EventKind, subject: Id, code: SessionCode) -> Self {
        Self { kind, subject: Some(subject), code: Some(code) }
    }
}

/// How far an event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Delivery {
    /// Online gateways that have acted on it.
    pub(crate) acked: i64,
    /// Online gateways.
    pub(crate) of: i64,
    /// Milliseconds since the change.
    pub(crate) ms: u64,
}

/// The newest events in memory, as they travel.
#[derive(Debug, Default)]
struct Backlog {
    lines: VecDeque<(i64, Bytes)>,
    /// The last event that is not in memory any more.
    gone: i64,
    newest: i64,
}

/// Where streams wait for events.
pub(crate) struct Hub {
    epoch: String,
    config: config::Events,
    backlog: Mutex<Backlog>,
    newest: watch::Sender<i64>,
    nudged: Notify,
    closing: CancellationToken,
}

/// Where a stream of events stands.
pub(crate) struct Cursor {
    seq: i64,
    newest: watch::Receiver<i64>,
    /// What is sent before all else.
    first: Option<Bytes>,
}

impl Hub {
    /// A hub at the database's newest event.
    pub(crate) async fn open(db: &Db, config: config::Events) -> Result<Self, DbError> {
        let (epoch, seq) = on!(&mut db.get().await?, events::head())?;
        let backlog = Mutex::new(Backlog { gone: seq, newest: seq, ..Backlog::default() });
        let (newest, _) = watch::channel(seq);
        let (nudged, closing) = (Notify::new(), CancellationToken::new());
        Ok(Self { epoch, config, backlog, newest, nudged, closing })
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be news in the table.
    pub(crate) fn nudge(&self) {
        self.nudged.notify_one();
    }

    /// The database's epoch.
    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Carries events from the table to the streams until drained.
    pub(crate) async fn run(&self, db: &Db, listener: Option<Listener>, shutdown: &Shutdown) {
        tokio::join!(self.follow(db, shutdown), self.listen(listener, shutdown));
        self.closing.cancel();
    }

    async fn follow(&self, db: &Db, shutdown: &Shutdown) {
        let mut poll = tokio::time::interval(self.config.poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = self.nudged.notified() => {}
                _ = poll.tick() => {}
            }
            if let Err(error) = self.fetch(db).await {
                tracing::warn!(%error, "events cannot be read");
            }
        }
    }

    async fn listen(&self, listener: Option<Listener>, shutdown: &Shutdown) {
        let Some(listener) = listener else { return };
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                heard = listener.run(|| self.nudge()) => if let Err(error) = heard {
                    tracing::warn!(error, "not listening for events");
                }
            }
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn fetch(&self, db: &Db) -> Result<(), DbError> {
        loop {
            let after = self.backlog().newest;
            let rows = on!(&mut db.get().await?, events::after(after, AT_ONCE))?;
            let Some(last) = rows.last().map(|row| row.seq) else { return Ok(()) };
            {
                let mut backlog = self.backlog();
                for row in &rows {
                    backlog.lines.push_back((row.seq, line(&self.event(row))));
                }
                while backlog.lines.len() > self.config.backlog
                    && let Some((seq, _)) = backlog.lines.pop_front()
                {
                    backlog.gone = seq;
                }
                backlog.newest = last;
            }
            self.newest.send_replace(last);
        }
    }

    fn event(&self, row: &EventRow) -> Event {
        Event {
            epoch: self.epoch.clone(),
            seq: row.seq,
            kind: serde_json::from_value(Value::String(row.kind.clone())).unwrap_or(EventKind::Unknown),
            subject: row.subject.map(|id| id.0),
            code: row.code.as_deref().and_then(SessionCode::from_name),
            sessions: Vec::new(),
        }
    }

    /// A stream that goes on behind an event, if that is still possible.
    pub(crate) fn resume(&self, epoch: &str, after: i64) -> Option<Cursor> {
        let backlog = self.backlog();
        let possible = epoch == self.epoch && (backlog.gone..=backlog.newest).contains(&after);
        possible.then(|| Cursor { seq: after, newest: self.newest.subscribe(), first: None })
    }

    /// A stream that begins with a snapshot.
    pub(crate) fn snapshot(&self, seq: i64, sessions: Vec<Id>) -> Cursor {
        let sessions = sessions.into_iter().map(|id| id.0).collect();
        let event =
            Event { epoch: self.epoch.clone(), seq, kind: EventKind::Snapshot, subject: None, code: None, sessions };
        Cursor { seq, newest: self.newest.subscribe(), first: Some(line(&event)) }
    }

    /// What a stream sends next: events, or a sign of life; `None` ends it.
    pub(crate) async fn next(&self, cursor: &mut Cursor) -> Option<Bytes> {
        if let Some(first) = cursor.first.take() {
            return Some(first);
        }
        let quiet = tokio::time::sleep(self.config.keepalive);
        tokio::pin!(quiet);
        loop {
            cursor.newest.borrow_and_update();
            if let Some(bytes) = self.take(cursor)? {
                return Some(bytes);
            }
            tokio::select! {
                () = self.closing.cancelled() => return None,
                changed = cursor.newest.changed() => changed.ok()?,
                () = &mut quiet => return Some(Bytes::from_static(b":\n\n")),
            }
        }
    }

    /// Events behind a cursor; `None` if they are not in memory any more.
    #[expect(clippy::option_option, reason = "too far behind differs from nothing new")]
    fn take(&self, cursor: &mut Cursor) -> Option<Option<Bytes>> {
        let backlog = self.backlog();
        if cursor.seq < backlog.gone {
            return None;
        }
        let from = backlog.lines.partition_point(|(seq, _)| *seq <= cursor.seq);
        let mut lines = backlog.lines.range(from..);
        let Some((mut seq, first)) = lines.next().cloned() else { return Some(None) };
        let mut bytes = first;
        if lines.len() > 0 {
            let mut all = Vec::from(&bytes[..]);
            for (next, line) in lines {
                all.extend_from_slice(line);
                seq = *next;
            }
            bytes = all.into();
        }
        cursor.seq = seq;
        Some(Some(bytes))
    }

    /// Waits until every online gateway has acted on an event, or long enough.
    pub(crate) async fn delivery(&self, db: &Db, seq: i64, since: Instant) -> Result<Delivery, DbError> {
        self.nudge();
        loop {
            let (acked, of) = on!(&mut db.get().await?, events::acks(seq))?;
            let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            if acked >= of || since.elapsed() >= self.config.ack_timeout {
                return Ok(Delivery { acked, of, ms });
            }
            tokio::time::sleep(ACK_POLL).await;
        }
    }
}

/// An event as server-sent events are written (WHATWG HTML, "Server-sent events").
fn line(event: &Event) -> Bytes {
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\ndata: {data}\n\n", event.seq).into()
}
