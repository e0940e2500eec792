use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};

use super::datagrams::charge;
use super::{Event, Phase, Received, Role, Session, SessionError, StreamKey};
use crate::frame::{Encoding, Frame, HelloLimits, SessionCode, StreamCode, StreamId, Target, binary, json};

/// Payload bytes of GOAWAY and WINDOW.
const GOAWAY_LEN: usize = 10;

impl Session {
    /// Takes one whole message of the peer's.
    pub fn handle_message(&mut self, message: Bytes, now: Instant) -> Result<(), SessionError> {
        self.heard(now);
        let len = message.len();
        let before_hello = self.is_unheard();
        self.handle_frames(message, now)?;
        if before_hello || self.phase == Phase::Deciding {
            self.early = self.early.saturating_add(len);
        }
        if before_hello && self.greeted {
            self.early = 0;
        }
        if self.is_unheard() && self.early > self.limits.early_bytes {
            return Err(SessionError::Unexpected("so much before `hello`"));
        }
        Ok(())
    }

    fn handle_frames(&mut self, mut message: Bytes, now: Instant) -> Result<(), SessionError> {
        match self.encoding {
            Encoding::V1 => {
                let unanswered = self.phase == Phase::Greeting && self.role == Role::Client;
                let features = if unanswered { self.wanted } else { self.features };
                let frame = json::decode(&message, features)?;
                self.handle_frame(frame, now)
            }
            Encoding::V2 => {
                if message.is_empty() {
                    self.charge_idle(0, now)?;
                }
                while let Some(frame) = binary::decode(&mut message)? {
                    self.handle_frame(frame, now)?;
                    if self.is_flooded() {
                        return Err(SessionError::Flood("frames that are answered"));
                    }
                }
                Ok(())
            }
        }
    }

    /// Whether a frame may come before `hello`, and before its answer.
    fn expect(&self, frame: &Frame) -> Result<(), SessionError> {
        let is_client = self.role == Role::Client;
        let may_come = match (self.phase, frame) {
            (_, Frame::Padding(_) | Frame::Ping(_) | Frame::Pong(_) | Frame::Notice(_))
            | (Phase::Deciding, Frame::Error { .. })
            | (Phase::Open | Phase::Closed, _) => true,
            (Phase::Greeting, Frame::Hello(_)) => !is_client,
            (Phase::Greeting, Frame::HelloOk(_) | Frame::Error { .. } | Frame::Reset { .. })
            | (Phase::Deciding, Frame::HelloOk(_)) => is_client,
            (Phase::Greeting, _) => false,
            (Phase::Deciding, _) => !is_client && !self.is_asked,
        };
        let early = if self.phase == Phase::Greeting { "a frame before `hello`" } else { "a frame before `hello_ok`" };
        if may_come { Ok(()) } else { Err(SessionError::Unexpected(early)) }
    }

    fn handle_frame(&mut self, frame: Frame, now: Instant) -> Result<(), SessionError> {
        if self.phase == Phase::Closed {
            return Ok(());
        }
        self.expect(&frame)?;
        let may_be_early = matches!(frame, Frame::Padding(_) | Frame::Ping(_) | Frame::Pong(_) | Frame::Notice(_));
        self.confirmed |= self.phase == Phase::Open && !may_be_early;
        match frame {
            Frame::Hello(hello) if self.role == Role::Gateway && self.phase == Phase::Greeting => {
                self.phase = Phase::Deciding;
                self.greeted = true;
                if self.encoding == Encoding::V1 {
                    self.features = hello.features;
                }
                self.keep_alive(hello.keepalive);
                self.is_asked = hello.resume.is_some();
                self.events.push_back(Event::Hello(hello));
            }
            Frame::HelloOk(ok) if self.role == Role::Client && self.phase != Phase::Open => {
                self.answered(ok.resume.as_ref());
                if self.encoding == Encoding::V1 {
                    self.features = ok.features;
                }
                if let Some(limits) = &ok.limits {
                    self.keep_to(limits, now);
                }
                self.events.push_back(Event::Accepted(ok));
            }
            Frame::Hello(_) => return Err(SessionError::Unexpected("hello")),
            Frame::HelloOk(_) => return Err(SessionError::Unexpected("hello_ok")),
            Frame::Error { code, message, retry_after_ms } => self.handle_error(code, message, retry_after_ms),
            Frame::GoAway { .. } if self.role == Role::Gateway => self.charge_idle(GOAWAY_LEN, now)?,
            Frame::GoAway { last, reconnect_in_ms, .. } => {
                self.charge_idle(GOAWAY_LEN, now)?;
                self.handle_go_away(last);
                let reconnect_in = Duration::from_millis(reconnect_in_ms.into());
                self.events.push_back(Event::GoingAway { last, reconnect_in });
            }
            Frame::Ping(bytes) => {
                if !self.pings.take(now) {
                    return Err(SessionError::Flood("ping"));
                }
                self.liveness.pinged();
                if !self.is_unheard() {
                    self.control.push_back(Frame::Pong(bytes));
                }
            }
            Frame::Pong(bytes) => {
                self.charge_steering(now)?;
                self.measured(bytes, now);
            }
            Frame::StreamError { id, code, .. } if self.role == Role::Client => {
                self.charge_idle(0, now)?;
                self.handle_reset(id, code)?;
            }
            Frame::Padding(len) => self.charge_idle(len.into(), now)?,
            Frame::StreamError { .. } => self.charge_idle(0, now)?,
            Frame::Notice(notice) => {
                self.charge_idle(0, now)?;
                if self.role == Role::Client {
                    self.events.push_back(Event::Notice(notice));
                }
            }
            Frame::Open { id, target, payload, fin, udp } => {
                let key = self.handle_open(id, udp, now)?;
                match key {
                    Some(key) => self.begin(key, target, now),
                    None => self.charge_refusal(payload.len(), now),
                }
                if key.is_some() && (fin || !payload.is_empty()) {
                    self.handle_data(id, payload, fin, now)?;
                }
            }
            Frame::Data { id, payload, fin } => self.handle_data(id, payload, fin, now)?,
            Frame::Window { id, consumed, limit } => {
                self.charge_steering(now)?;
                self.handle_window(id, consumed, limit);
            }
            Frame::Reset { id, code } => {
                if !self.resets.take(now) {
                    return Err(SessionError::Flood("reset"));
                }
                self.handle_reset(id, code)?;
            }
            Frame::Close { id, half } => {
                if !self.resets.take(now) {
                    return Err(SessionError::Flood("stream_close"));
                }
                if half {
                    self.handle_data(id, Bytes::new(), true, now)?;
                } else {
                    self.handle_close(id);
                }
            }
        }
        Ok(())
    }

    /// The peer ends the session, unless it only does not take it up now.
    fn handle_error(&mut self, code: SessionCode, message: String, retry_after_ms: Option<u32>) {
        let retry_after = retry_after_ms.map(|wait| Duration::from_millis(wait.into()));
        if self.is_resuming() && !code.is_final() {
            self.events.push_back(Event::Ended { code, message, retry_after });
        } else {
            self.ended(code, message, retry_after);
        }
    }

    /// Opens no more streams, and none faster, than the gateway takes.
    fn keep_to(&mut self, limits: &HelloLimits, now: Instant) {
        let streams = usize::try_from(limits.streams).unwrap_or(usize::MAX);
        self.streams_max = self.streams_max.min(streams.max(1));
        self.opens.set_rate(limits.opens_per_second.max(1), now);
    }

    fn handle_data(&mut self, id: StreamId, payload: Bytes, fin: bool, now: Instant) -> Result<(), SessionError> {
        let Some(key) = self.key_of(id)? else { return self.charge_idle(payload.len(), now) };
        if payload.is_empty() && !fin {
            self.charge_idle(0, now)?;
        } else {
            self.charge_tiny(payload.len(), now);
            self.liveness.received();
        }
        if self.streams.get(&key).is_some_and(|stream| stream.udp) {
            self.handle_datagrams(key, &payload, fin);
            return Ok(());
        }
        let payload = match self.take_head(key, payload, now) {
            Ok(_) if fin && self.streams.get(&key).is_some_and(|stream| stream.head.is_some()) => {
                self.reset(key, StreamCode::StreamProtocol);
                return Ok(());
            }
            Ok(payload) => payload,
            Err(code) => {
                self.reset(key, code);
                return Ok(());
            }
        };
        let half = self.has_half_close();
        let Some(stream) = self.streams.get_mut(&key) else { return Ok(()) };
        if stream.reset.is_some() || stream.stopped || stream.incoming.ended && !half {
            return self.charge_idle(payload.len(), now);
        }
        if stream.incoming.finished {
            self.reset(key, StreamCode::StreamProtocol);
            return Ok(());
        }
        let incoming = &mut stream.incoming;
        let received = incoming.received.saturating_add(payload.len() as u64);
        if received > incoming.limit {
            return Err(SessionError::FlowControl(id));
        }
        if incoming.ended {
            incoming.finished |= fin;
            incoming.received = received;
            incoming.consumed = received;
            self.free_id(key);
            self.tell_end(key);
            self.release(key);
            return self.charge_idle(payload.len(), now);
        }
        incoming.received = received;
        if incoming.granted_at.is_none() {
            incoming.granted_at = Some(now);
        }
        let was_idle = incoming.is_empty();
        if stream.unconsumed() == payload.len() as u64 {
            stream.incoming.progress = now;
            stream.incoming.mark(now);
        }
        let crowded = self.buffered >= self.limits.window_pool.div_euclid(4);
        let len = payload.len() as u64;
        stream.incoming.finished |= fin;
        stream.incoming.push(payload, crowded);
        let announced = stream.head.is_none();
        self.hold(len);
        if was_idle && announced {
            self.events.push_back(Event::Wake(key));
        }
        if fin {
            self.free_id(key);
            self.tell_end(key);
        }
        Ok(())
    }

    /// Completes the target of a v1 stream; gives back what of the payload lies behind it.
    fn take_head(&mut self, key: StreamKey, payload: Bytes, now: Instant) -> Result<Bytes, StreamCode> {
        let Some(stream) = self.streams.get_mut(&key) else { return Ok(payload) };
        let Some(head) = &mut stream.head else { return Ok(payload) };
        let before = head.len();
        let missing = Target::MAX_LEN.saturating_sub(before);
        head.extend_from_slice(payload.get(..missing).unwrap_or(&payload));
        match Target::decode(head) {
            Ok(None) => Ok(Bytes::new()),
            Ok(Some((target, len))) => {
                stream.head = None;
                self.announce(key, Some(target), now);
                let mut rest = payload;
                rest.advance(len.saturating_sub(before));
                Ok(rest)
            }
            Err(_) => Err(StreamCode::StreamProtocol),
        }
    }

    /// What a stream has for its owner.
    pub fn receive(&mut self, key: StreamKey) -> Received {
        let Some(stream) = self.streams.get_mut(&key) else { return Received::Reset(StreamCode::Cancelled) };
        if let Some(code) = stream.reset {
            self.release(key);
            return Received::Reset(code);
        }
        if let Some(bytes) = stream.incoming.pop() {
            if stream.udp {
                let taken = charge(bytes.len());
                stream.incoming.consumed = stream.incoming.consumed.saturating_add(taken);
                self.unhold(taken);
            }
            return Received::Data(bytes);
        }
        if stream.incoming.finished {
            stream.incoming.ended = true;
            self.release(key);
            return Received::Finished;
        }
        Received::Nothing
    }

    /// The stream of a wire id; `None` for one that is over; an error for one that never was (v2).
    pub(super) fn key_of(&self, id: StreamId) -> Result<Option<StreamKey>, SessionError> {
        match self.encoding {
            Encoding::V1 => Ok(self.ids.get(&id).copied()),
            Encoding::V2 => {
                let newest = if self.role == Role::Gateway { self.last_peer } else { self.last_own };
                if id > newest || id.0.is_multiple_of(2) {
                    return Err(SessionError::StreamId(id));
                }
                let key = StreamKey(id.0);
                Ok(self.streams.contains_key(&key).then_some(key))
            }
        }
    }
}
