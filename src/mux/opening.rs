use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::retransmit::RetransmitBuffer;
use super::stream::Stream;
use super::{Event, OpenError, Payload, Phase, Role, Session, SessionError, StreamKey};
use crate::frame::{Encoding, Feature, Frame, StreamCode, StreamId, Target};

/// Most first bytes in OPEN itself.
const OPEN_PAYLOAD: usize = 32 * 1024;

impl Session {
    /// Opens a stream to a destination with its first bytes, at most [`super::INITIAL_WINDOW`] (client).
    pub fn open(&mut self, target: &Target, payload: Bytes, now: Instant) -> Result<StreamKey, OpenError> {
        let (id, key) = self.next_own(now)?;
        let mut stream = Stream::new(id, self.has_credit(), now);
        if self.can_name(target) {
            let mut first = payload;
            let rest = first.split_off(first.len().min(OPEN_PAYLOAD));
            stream.outgoing.accepted = first.len() as u64;
            self.remember(&mut stream, target);
            self.retransmission.keep(&mut stream.outgoing, first.clone());
            self.streams.insert(key, stream);
            let target = Some(target.clone());
            self.control.push_back(Frame::Open { id, target, payload: first, fin: false, udp: false });
            self.send(key, Payload::from(&rest[..]));
        } else {
            self.streams.insert(key, stream);
            self.control.push_back(Frame::Open { id, target: None, payload: Bytes::new(), fin: false, udp: false });
            let mut head = Payload::with_capacity(target.encoded_len().saturating_add(payload.len()));
            target.encode(head.append());
            head.append().extend_from_slice(&payload);
            self.send(key, head);
        }
        Ok(key)
    }

    /// Keeps what it takes to open a stream again, if the session can be resumed.
    fn remember(&self, stream: &mut Stream, target: &Target) {
        if self.retransmission.is_on {
            stream.target = Some(Box::new(target.clone()));
            stream.outgoing.kept = (!stream.udp).then(RetransmitBuffer::default);
        }
    }

    /// Whether OPEN can carry a destination: v1 writes it as text, which not every name survives.
    fn can_name(&self, target: &Target) -> bool {
        match self.encoding {
            Encoding::V1 => self.features.has(Feature::Open) && Target::parse(&target.text()).as_ref() == Ok(target),
            Encoding::V2 => true,
        }
    }

    /// Opens a stream for datagrams (client).
    pub fn open_udp(&mut self, now: Instant) -> Result<StreamKey, OpenError> {
        if !self.features.has(Feature::Udp) {
            return Err(OpenError::Unsupported);
        }
        let (id, key) = self.next_own(now)?;
        let mut stream = Stream::new(id, false, now);
        stream.udp = true;
        let nowhere = Target::Ip(([0, 0, 0, 0], 0).into());
        self.remember(&mut stream, &nowhere);
        self.streams.insert(key, stream);
        let nowhere = (self.encoding == Encoding::V2).then_some(nowhere);
        self.control.push_back(Frame::Open { id, target: nowhere, payload: Bytes::new(), fin: false, udp: true });
        Ok(key)
    }

    fn next_own(&mut self, now: Instant) -> Result<(StreamId, StreamKey), OpenError> {
        if self.role != Role::Client || !self.may_open() {
            return Err(OpenError::NotOpen);
        }
        let id = StreamId(if self.last_own.0 == 0 { 1 } else { self.last_own.0.saturating_add(2) });
        if self.streams.len() >= self.streams_max || id == self.last_own {
            return Err(OpenError::Limit);
        }
        if !self.opens.take(now) {
            return Err(OpenError::Later(self.opens.next().unwrap_or(now)));
        }
        self.last_own = id;
        self.liveness.opened();
        let key = match self.encoding {
            Encoding::V1 => {
                let key = self.fresh_key();
                self.ids.insert(id, key);
                key
            }
            Encoding::V2 => StreamKey(id.0),
        };
        Ok((id, key))
    }

    /// Whether [`Session::open`] may be called: with v2 as soon as `hello` was said (a few streams),
    /// with v1 once it was answered.
    pub fn may_open(&self) -> bool {
        match self.phase {
            Phase::Open => !self.draining,
            Phase::Greeting => {
                self.encoding == Encoding::V2 && self.greeted && self.streams.len() < self.limits.early_streams
            }
            Phase::Deciding | Phase::Closed => false,
        }
    }

    /// Takes up a stream, or refuses it.
    pub(super) fn handle_open(
        &mut self,
        id: StreamId,
        udp: bool,
        now: Instant,
    ) -> Result<Option<StreamKey>, SessionError> {
        if self.role == Role::Client {
            return Err(SessionError::Unexpected("a stream opened by the gateway"));
        }
        let key = match self.encoding {
            Encoding::V1 if self.ids.contains_key(&id) || self.retransmission.is_on && id <= self.last_peer => {
                return Err(SessionError::StreamId(id));
            }
            Encoding::V1 => self.fresh_key(),
            Encoding::V2 if id.0.is_multiple_of(2) || id <= self.last_peer => return Err(SessionError::StreamId(id)),
            Encoding::V2 => StreamKey(id.0),
        };
        self.last_peer = self.last_peer.max(id);
        let room = self.streams.len() < self.limits.streams && !self.is_under_pressure();
        if !room || self.draining {
            self.refuse(id, if room { StreamCode::Cancelled } else { StreamCode::Limit });
            return Ok(None);
        }
        let mut stream = Stream::new(id, self.has_credit() && !udp, now);
        stream.udp = udp;
        stream.outgoing.kept = (self.retransmission.is_on && !udp).then(RetransmitBuffer::default);
        self.streams.insert(key, stream);
        if self.encoding == Encoding::V1 {
            self.ids.insert(id, key);
        }
        Ok(Some(key))
    }

    /// Announces a new stream once its destination is known.
    pub(super) fn begin(&mut self, key: StreamKey, target: Option<Target>, now: Instant) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        match target {
            _ if stream.udp => self.announce(key, None, now),
            Some(target) => self.announce(key, Some(target), now),
            None => stream.head = Some(BytesMut::new()),
        }
    }

    /// Tells the owner of a stream, in its turn if streams are opened faster than they may be.
    pub(super) fn announce(&mut self, key: StreamKey, target: Option<Target>, now: Instant) {
        if self.turns.is_empty() && self.opens.take(now) {
            self.events.push_back(Event::Opened { key, target });
        } else if let Some(stream) = self.streams.get_mut(&key) {
            stream.in_turn = true;
            self.turns.push_back((key, target));
        }
    }

    /// When the next stream that waits has its turn.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        if self.turns.is_empty() { None } else { self.opens.next().or(Some(self.last_heard)) }
    }

    /// Announces the streams whose turn has come and that are still there.
    pub(super) fn take_turns(&mut self, now: Instant) {
        while let Some((key, target)) = self.turns.pop_front() {
            let Some(stream) = self.streams.get_mut(&key) else { continue };
            if !self.opens.take(now) {
                self.turns.push_front((key, target));
                return;
            }
            stream.in_turn = false;
            self.events.push_back(Event::Opened { key, target });
        }
    }
}
