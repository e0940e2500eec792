//! Events for gateways: written in the changing transaction, followed by every replica (docs/09, "Events").

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::api::{Event, EventKind};
use crate::config;
use crate::control::db::{Db, DbError, Listener, dispatch};
use crate::control::model::EventRow;
use crate::control::model::id::{GatewayId, SessionId, SubjectId};
use crate::frame::SessionCode;
use crate::lifecycle::Shutdown;

/// Events that are read at once.
const AT_ONCE: i64 = 1000;

/// How far an event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Delivery {
    /// Online gateways that have acted on it.
    pub(crate) acked: i64,
    /// Online gateways.
    pub(crate) of: i64,
    /// Milliseconds since the change.
    pub(crate) ms: u64,
}

/// An event as it travels.
#[derive(Clone, Debug)]
struct Line {
    seq: i64,
    text: Bytes,
    /// The gateway whose stream ends with it, because its token may be void.
    ends: Option<GatewayId>,
}

/// The newest events in memory, as they travel.
#[derive(Debug, Default)]
struct Backlog {
    epoch: String,
    /// How often the database has turned out to be another one.
    turn: u64,
    lines: VecDeque<Line>,
    /// The last event that is not in memory any more.
    gone: i64,
    newest: i64,
}

/// Where streams wait for events.
pub(crate) struct EventBroadcaster {
    config: config::Events,
    backlog: Mutex<Backlog>,
    newest: watch::Sender<i64>,
    notified: Notify,
    closing: CancellationToken,
}

/// A database as far as its events can be compared.
pub(crate) struct Epoch {
    name: String,
    turn: u64,
}

/// Where a stream of events stands.
pub(crate) struct Cursor {
    gateway: GatewayId,
    turn: u64,
    seq: i64,
    newest: watch::Receiver<i64>,
    /// What is sent before all else.
    first: Option<Bytes>,
    over: bool,
}

impl EventBroadcaster {
    /// A broadcaster at the database's newest event.
    pub(crate) async fn open(db: &Db, config: config::Events) -> Result<Self, DbError> {
        let (epoch, seq) = dispatch!(&mut db.read().await?, events::head())?;
        let backlog = Mutex::new(Backlog { epoch, gone: seq, newest: seq, ..Backlog::default() });
        let (newest, _) = watch::channel(seq);
        let (notified, closing) = (Notify::new(), CancellationToken::new());
        Ok(Self { config, backlog, newest, notified, closing })
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be new events in the table.
    pub(crate) fn notify(&self) {
        self.notified.notify_one();
    }

    /// Whether the database is of an epoch.
    pub(crate) fn is_of(&self, epoch: &str) -> bool {
        self.backlog().epoch == epoch
    }

    /// Carries events from the table to the streams until drained; `changed` is called when gateways or nodes are others.
    pub(crate) async fn run(&self, db: &Db, listener: Option<Listener>, changed: impl Fn(), shutdown: &Shutdown) {
        tokio::join!(self.follow(db, changed, shutdown), self.listen(listener, shutdown));
        self.closing.cancel();
    }

    async fn follow(&self, db: &Db, changed: impl Fn(), shutdown: &Shutdown) {
        let mut poll = tokio::time::interval(self.config.poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                () = self.notified.notified() => {}
                _ = poll.tick() => if let Err(error) = self.check(db).await {
                    tracing::warn!(%error, "the database's epoch cannot be read");
                },
            }
            if let Err(error) = self.fetch(db, &changed).await {
                tracing::warn!(%error, "events cannot be read");
            }
        }
    }

    async fn listen(&self, listener: Option<Listener>, shutdown: &Shutdown) {
        let Some(listener) = listener else { return };
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                heard = listener.run(|| self.notify()) => if let Err(error) = heard {
                    tracing::warn!(%error, "not listening for events");
                }
            }
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(self.config.listen_retry) => {}
            }
        }
    }

    /// After a restore or a failover numbers mean something else: every stream begins anew.
    async fn check(&self, db: &Db) -> Result<(), DbError> {
        let (epoch, seq) = dispatch!(&mut db.read().await?, events::head())?;
        let mut backlog = self.backlog();
        if epoch != backlog.epoch || seq < backlog.newest {
            tracing::warn!("the database is another one, or an older one: gateways take snapshots");
            let turn = backlog.turn.wrapping_add(1);
            *backlog = Backlog { epoch, turn, lines: VecDeque::new(), gone: seq, newest: seq };
            drop(backlog);
            self.newest.send_replace(seq);
        }
        Ok(())
    }

    async fn fetch(&self, db: &Db, changed: &impl Fn()) -> Result<(), DbError> {
        loop {
            let after = self.backlog().newest;
            let rows = dispatch!(&mut db.read().await?, events::after(after, AT_ONCE))?;
            let Some(last) = rows.last().map(|row| row.seq) else { return Ok(()) };
            let others = [EventKind::GatewayChanged.as_str(), EventKind::NodesChanged.as_str()];
            if rows.iter().any(|row| others.contains(&row.kind.as_str())) {
                changed();
            }
            {
                let mut backlog = self.backlog();
                for row in &rows {
                    let event = event(&backlog.epoch, row);
                    let ends = row
                        .subject
                        .filter(|_| event.kind == EventKind::GatewayChanged)
                        .map(|subject| subject.uuid().into());
                    backlog.lines.push_back(Line { seq: row.seq, text: text(&event), ends });
                }
                while backlog.lines.len() > self.config.backlog
                    && let Some(line) = backlog.lines.pop_front()
                {
                    backlog.gone = line.seq;
                }
                backlog.newest = last;
            }
            self.newest.send_replace(last);
        }
    }

    /// A stream that goes on behind an event, if that is still possible.
    pub(crate) fn resume(&self, gateway: GatewayId, epoch: &str, after: i64) -> Option<Cursor> {
        let backlog = self.backlog();
        let possible = epoch == backlog.epoch && (backlog.gone..=backlog.newest).contains(&after);
        let (newest, turn) = (self.newest.subscribe(), backlog.turn);
        possible.then(|| Cursor { gateway, turn, seq: after, newest, first: None, over: false })
    }

    /// Which database a snapshot is about to be of.
    pub(crate) fn epoch(&self) -> Epoch {
        let backlog = self.backlog();
        Epoch { name: backlog.epoch.clone(), turn: backlog.turn }
    }

    /// A stream that begins with a snapshot, which was read after its epoch was asked for.
    pub(crate) fn snapshot(&self, gateway: GatewayId, epoch: Epoch, seq: i64, sessions: Vec<SessionId>) -> Cursor {
        let sessions = sessions.into_iter().map(SessionId::uuid).collect();
        let Epoch { name: epoch, turn } = epoch;
        let event = Event { epoch, seq, kind: EventKind::Snapshot, subject: None, code: None, sessions };
        let (newest, first) = (self.newest.subscribe(), Some(text(&event)));
        Cursor { gateway, turn, seq, newest, first, over: false }
    }

    /// What a stream sends next: events, or a sign of life; `None` ends it.
    pub(crate) async fn next(&self, cursor: &mut Cursor) -> Option<Bytes> {
        if let Some(first) = cursor.first.take() {
            return Some(first);
        }
        if cursor.over {
            return None;
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
        if cursor.seq < backlog.gone || cursor.turn != backlog.turn {
            return None;
        }
        let from = backlog.lines.partition_point(|line| line.seq <= cursor.seq);
        let mut lines = backlog.lines.range(from..);
        let Some(first) = lines.next() else { return Some(None) };
        let ends = |line: &Line| line.ends == Some(cursor.gateway);
        let (mut seq, mut over, mut bytes) = (first.seq, ends(first), first.text.clone());
        if lines.len() > 0 {
            let mut all = Vec::from(&bytes[..]);
            for line in lines {
                all.extend_from_slice(&line.text);
                (seq, over) = (line.seq, over || ends(line));
            }
            bytes = all.into();
        }
        (cursor.seq, cursor.over) = (seq, over);
        Some(Some(bytes))
    }

    /// Waits until every online gateway has acted on an event, or long enough; the change itself is made by then.
    pub(crate) async fn delivery(&self, db: &Db, seq: i64, since: Instant) -> Delivery {
        self.notify();
        let mut delivery = Delivery { acked: 0, of: 1, ms: 0 };
        loop {
            match Self::acks(db, seq).await {
                Ok((acked, of)) => (delivery.acked, delivery.of) = (acked, of),
                Err(error) => tracing::warn!(%error, "acknowledgements cannot be read"),
            }
            delivery.ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            if delivery.acked >= delivery.of || since.elapsed() >= self.config.ack_timeout {
                return delivery;
            }
            tokio::time::sleep(self.config.ack_poll).await;
        }
    }

    async fn acks(db: &Db, seq: i64) -> Result<(i64, i64), DbError> {
        Ok(dispatch!(&mut db.read().await?, events::acks(seq))?)
    }
}

/// An event as server-sent events are written (WHATWG HTML, "Server-sent events").
fn text(event: &Event) -> Bytes {
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\ndata: {data}\n\n", event.seq).into()
}

fn event(epoch: &str, row: &EventRow) -> Event {
    Event {
        epoch: epoch.to_owned(),
        seq: row.seq,
        kind: serde_json::from_value(Value::String(row.kind.clone())).unwrap_or(EventKind::Unknown),
        subject: row.subject.map(SubjectId::uuid),
        code: row.code.as_deref().and_then(SessionCode::from_name),
        sessions: Vec::new(),
    }
}
