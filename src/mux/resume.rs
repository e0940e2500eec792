use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::liveness::Liveness;
use super::retransmit::RetransmitBuffer;
use super::stream::Outgoing;
use super::{Event, Payload, Phase, Role, Session, StreamKey};
use crate::frame::{
    Encoding, Feature, Features, Frame, Hello, HelloOk, Resumable, Resume, StreamCode, StreamId, StreamState, Token,
};

/// Most streams whose states fit into a `hello` of 32 KiB.
const TABLE_MAX: usize = 512;

impl Session {
    /// Whether a session with these features can be resumed (docs/03, "Resume").
    pub fn can_resume(&self, features: Features) -> bool {
        let needed = [Feature::Window, Feature::Open, Feature::Half, Feature::Code];
        let has_needed = self.encoding == Encoding::V2 || needed.into_iter().all(|feature| features.has(feature));
        features.has(Feature::Resume) && has_needed
    }

    /// Whether the session may go on over another connection once this one is lost.
    pub fn is_resumable(&self) -> bool {
        self.retransmission.is_on
            && self.closing.is_none()
            && match self.role {
                Role::Gateway => self.phase == Phase::Open,
                Role::Client => self.phase == Phase::Open || self.is_resuming(),
            }
    }

    /// Whether this is a client that has asked to go on and has no answer.
    pub fn is_resuming(&self) -> bool {
        self.role == Role::Client && self.phase == Phase::Deciding
    }

    /// What is sent from here on is kept until it was taken.
    pub(super) fn keep_from_here(&mut self) {
        self.retransmission.is_on = true;
        let is_fresh = |out: &Outgoing| out.accepted == 0 && !out.finished;
        let live = self.streams.values_mut().filter(|stream| !stream.udp && stream.reset.is_none());
        for stream in live.filter(|stream| is_fresh(&stream.outgoing)) {
            stream.outgoing.kept = Some(RetransmitBuffer::default());
        }
    }

    /// Nothing is kept any more.
    fn keep_no_more(&mut self) {
        self.retransmission.is_on = false;
        for stream in self.streams.values_mut() {
            self.retransmission.give_up(&mut stream.outgoing);
        }
    }

    /// Buffers that were kept and are not needed any more.
    pub fn take_free(&mut self) -> Vec<Bytes> {
        self.retransmission.take_free()
    }

    /// Whether the peer has shown that it knows of the connection that the session is on.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Tells the peer that its end, and all before it, was taken.
    pub(super) fn tell_end(&mut self, key: StreamKey) {
        if self.retransmission.is_on && self.streams.get(&key).is_some_and(|stream| stream.unconsumed() == 0) {
            self.tell_last(key);
        }
    }

    /// The same for a stream that is over: its owner has taken what there was.
    pub(super) fn tell_last(&mut self, key: StreamKey) {
        let is_on = self.retransmission.is_on;
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let is_told = stream.reset.is_some() && !stream.outgoing.finished;
        let incoming = &mut stream.incoming;
        if !is_on || stream.udp || stream.stopped || is_told || !incoming.finished || incoming.end_told {
            return;
        }
        incoming.end_told = true;
        let consumed = incoming.received.saturating_add(1);
        self.control.push_back(Frame::Window { id: stream.id, consumed, limit: incoming.limit });
    }

    /// A client that has asked to go on is done with a stream that it has named: the gateway hears so behind its answer.
    pub(super) fn tell_gone(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(&key).filter(|stream| stream.reset.is_none()) else { return };
        let (id, incoming) = (stream.id, &stream.incoming);
        let is_refused = |frame: &Frame| matches!(frame, Frame::Reset { id: refused, .. } if *refused == id);
        if incoming.finished && !stream.stopped && stream.outgoing.end_taken {
            let consumed = incoming.received.saturating_add(1);
            self.control.push_back(Frame::Window { id, consumed, limit: incoming.limit });
        } else if !self.control.iter().any(is_refused) {
            self.refuse(id, StreamCode::Cancelled);
        }
    }

    /// What this end has of the session's streams.
    fn table(&self) -> Vec<StreamState> {
        let streams = self.streams.values().filter(|stream| stream.reset.is_none() && !stream.is_headless());
        let mut table: Vec<_> = streams
            .map(|stream| StreamState {
                id: stream.id.0,
                received: if stream.udp { 0 } else { stream.incoming.received },
                fin: stream.incoming.finished && !stream.stopped,
            })
            .collect();
        table.sort_unstable_by_key(|state| state.id);
        table.truncate(TABLE_MAX);
        table
    }

    /// Asks to go on with the session over another connection (client); nothing else is said before the answer.
    pub fn resume_with(&mut self, mut hello: Hello, ticket: &Token, now: Instant) {
        self.begin_connection(now);
        let streams = self.table();
        hello.resume = Some(Resume { ticket: ticket.clone(), opened: self.last_own.0, streams });
        self.phase = Phase::Deciding;
        self.resuming = Some(Frame::Hello(Box::new(hello)));
    }

    /// Goes on with the session over another connection, with what the client has of it (gateway).
    pub fn resume(&mut self, theirs: &Resume, mut ok: HelloOk, now: Instant) {
        self.begin_connection(now);
        self.rejoin(&theirs.streams, None);
        if let Some(resumable) = &mut ok.resume {
            *resumable = Resumable {
                resumed: true,
                opened: self.last_peer.0,
                streams: self.table(),
                ticket: resumable.ticket.clone(),
                hold: resumable.hold,
            };
        }
        self.padding = self.limits.padding.ranges().iter().copied().collect();
        self.control.push_front(Frame::HelloOk(ok));
        if self.draining {
            self.go_away(self.last_peer, Duration::ZERO);
        }
        self.events.push_back(Event::Resumed);
    }

    /// The gateway has answered a `hello`: the streams go on, or are over if this is another session.
    pub(super) fn answered(&mut self, resumable: Option<&Resumable>) {
        let was_resuming = self.is_resuming();
        self.phase = Phase::Open;
        self.resuming = None;
        match resumable {
            Some(resumable) if was_resuming && resumable.resumed => {
                self.rejoin(&resumable.streams, Some(resumable.opened));
            }
            Some(_) | None if was_resuming => {
                self.control.clear();
                self.draining = false;
                self.rejoin(&[], None);
            }
            Some(_) | None => {}
        }
        if resumable.is_none() {
            self.keep_no_more();
        }
    }

    /// Nothing that was under way on the last connection arrives any more.
    fn begin_connection(&mut self, now: Instant) {
        self.control.clear();
        self.transport_ping = false;
        self.rtt.forget();
        self.confirmed = false;
        self.paused_until = None;
        self.liveness = Liveness::new(now);
        self.heard(now);
    }

    /// Goes on where the other end is; `opened` is the highest id that a gateway has seen.
    fn rejoin(&mut self, theirs: &[StreamState], opened: Option<u32>) {
        let theirs: HashMap<u32, &StreamState> = theirs.iter().map(|state| (state.id, state)).collect();
        let is_known = |id: StreamId| opened.is_none_or(|opened| id.0 <= opened);
        let live: HashSet<StreamId> = self.streams.values().map(|stream| stream.id).collect();
        self.control.retain(|frame| {
            let (Frame::Reset { id, .. } | Frame::Window { id, .. }) = frame else { return false };
            is_known(*id) && !live.contains(id)
        });
        self.ready.clear();
        let mut keys: Vec<_> = self.streams.iter().map(|(key, stream)| (stream.id, *key)).collect();
        keys.sort_unstable_by_key(|(id, _)| *id);
        for (id, key) in keys {
            let state = theirs.get(&id.0);
            let is_there = match state {
                Some(state) => self.rewind(key, state.received, state.fin),
                None if !is_known(id) => self.open_again(key),
                None => false,
            };
            if is_there {
                self.tell_again(key);
            } else {
                if state.is_some() && self.streams.get(&key).is_some_and(|stream| stream.reset.is_none()) {
                    self.refuse(id, StreamCode::Cancelled);
                }
                self.ids.remove(&id);
                self.cut_off(key, StreamCode::Cancelled);
            }
        }
    }

    /// Sends again what the other end does not have of a stream; false if that is not there any more.
    fn rewind(&mut self, key: StreamKey, received: u64, fin: bool) -> bool {
        let Some(stream) = self.streams.get_mut(&key) else { return false };
        if stream.reset.is_some() || stream.is_headless() {
            return false;
        }
        let out = &mut stream.outgoing;
        out.deficit = 0;
        if !stream.udp {
            let Some(again) = self.retransmission.since(out, received) else { return false };
            requeue(out, &again);
        }
        if out.finished && !fin {
            out.finished = false;
            if stream.stopped {
                stream.stopped = false;
                stream.incoming.finished = false;
            }
        }
        let stopped = stream.stopped.then_some(stream.id);
        out.scheduled = !out.queue.is_empty() || out.finish && !out.finished;
        if out.scheduled {
            self.ready.push_back(key);
        }
        if let Some(id) = stopped {
            self.refuse(id, StreamCode::Cancelled);
        }
        true
    }

    /// Opens a stream that the gateway has not seen, with all that was sent on it.
    fn open_again(&mut self, key: StreamKey) -> bool {
        let Some(stream) = self.streams.get(&key) else { return false };
        let (id, udp) = (stream.id, stream.udp);
        let Some(target) = stream.target.as_deref().cloned() else { return false };
        if !self.rewind(key, 0, false) {
            return false;
        }
        let target = (!udp || self.encoding == Encoding::V2).then_some(target);
        self.control.push_back(Frame::Open { id, target, payload: Bytes::new(), fin: false, udp });
        true
    }

    /// Repeats what the other end may not have heard: its credit, and that its end was taken.
    fn tell_again(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.udp {
            return;
        }
        let incoming = &mut stream.incoming;
        if incoming.end_told {
            incoming.end_told = false;
            return self.tell_end(key);
        }
        if !incoming.finished {
            let (id, consumed, limit) = (stream.id, incoming.consumed, incoming.limit);
            self.control.push_back(Frame::Window { id, consumed, limit });
        }
    }
}

/// Puts pieces in front of what is queued.
fn requeue(out: &mut Outgoing, again: &VecDeque<Bytes>) {
    for piece in again.iter().rev() {
        for chunk in piece.rchunks(Payload::MAX_SHARED) {
            out.queued = out.queued.saturating_add(chunk.len());
            out.queue.push_front(Payload::from(chunk));
        }
    }
}
