use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::budget::Budget;
use super::stream::Stream;
use super::{Event, HEADROOM, Limits, OpenError, Role, SessionError, StreamKey};
use crate::frame::{Encoding, Frame, Hello, HelloOk, SessionCode, StreamCode, StreamId, Target};

const CONTROL_BACKLOG: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing was said yet.
    Greeting,
    /// The gateway has the `hello` and has not answered.
    Deciding,
    Open,
    Closed,
}

/// The transport is to be closed, with a code for the peer if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing(pub(super) Option<SessionCode>);

/// One tunnel's state at one end: streams, credit, limits and timers, without a socket or a clock.
#[derive(Debug)]
pub struct Session {
    pub(super) role: Role,
    pub(super) encoding: Encoding,
    pub(super) limits: Arc<Limits>,
    pub(super) phase: Phase,
    pub(super) draining: bool,
    pub(super) streams: HashMap<StreamKey, Stream>,
    pub(super) ids: HashMap<StreamId, StreamKey>,
    pub(super) ready: VecDeque<StreamKey>,
    pub(super) control: VecDeque<Frame>,
    pub(super) events: VecDeque<Event>,
    pub(super) closing: Option<Closing>,
    pub(super) transport_ping: bool,
    pub(super) last_peer: StreamId,
    pub(super) last_own: StreamId,
    next_key: u32,
    pub(super) buffered: u64,
    pub(super) pool_left: u64,
    pub(super) opens: Budget,
    pub(super) resets: Budget,
    pub(super) pings: Budget,
    pub(super) tiny: Budget,
    pub(super) paused_until: Option<Instant>,
    pub(super) rtt: Option<Duration>,
    ping_sent: Option<(u64, Instant)>,
    ping_count: u64,
    last_heard: Instant,
    jitter: f64,
}

impl Session {
    /// A session at its start. `jitter` (0 to 1) spreads the pings of many sessions.
    pub fn new(role: Role, encoding: Encoding, limits: Arc<Limits>, jitter: f64, now: Instant) -> Self {
        Self {
            role,
            encoding,
            phase: Phase::Greeting,
            draining: false,
            streams: HashMap::new(),
            ids: HashMap::new(),
            ready: VecDeque::new(),
            control: VecDeque::new(),
            events: VecDeque::new(),
            closing: None,
            transport_ping: false,
            last_peer: StreamId(0),
            last_own: StreamId(0),
            next_key: 0,
            buffered: 0,
            pool_left: limits.window_pool,
            opens: Budget::new(limits.opens_per_second, now),
            resets: Budget::new(limits.resets_per_second, now),
            pings: Budget::new(limits.pings_per_second, now),
            tiny: Budget::new(limits.tiny_frames_per_second, now),
            paused_until: None,
            rtt: None,
            ping_sent: None,
            ping_count: 0,
            last_heard: now,
            jitter: jitter.clamp(0.0, 1.0),
            limits,
        }
    }

    /// Sends the client's `hello`.
    pub fn hello(&mut self, hello: Hello) {
        self.control.push_back(Frame::Hello(Box::new(hello)));
    }

    /// Consents to a `hello`; streams may be opened from here on.
    pub fn accept(&mut self, ok: HelloOk) {
        if self.phase == Phase::Deciding {
            self.phase = Phase::Open;
            self.control.push_back(Frame::HelloOk(ok));
        }
    }

    /// Ends the session with an error for the peer, or quietly without one. Streams are cancelled.
    pub fn close(&mut self, code: Option<SessionCode>, message: &str) {
        if self.phase == Phase::Closed {
            return;
        }
        self.cancel_streams();
        self.control.retain(|frame| matches!(frame, Frame::HelloOk(_)));
        if let Some(code) = code
            && self.role == Role::Gateway
        {
            self.control.push_back(Frame::Error { code, message: message.to_owned() });
        }
        self.closing = Some(Closing(code));
    }

    /// Refuses new streams and tells a v2 peer so.
    pub fn drain(&mut self, reconnect_in: Duration) {
        if self.draining || self.phase == Phase::Closed {
            return;
        }
        self.draining = true;
        if self.encoding == Encoding::V2 && self.phase == Phase::Open {
            self.control.push_back(Frame::GoAway {
                last: self.last_peer,
                reconnect_in_ms: u32::try_from(reconnect_in.as_millis()).unwrap_or(u32::MAX),
                code: SessionCode::GoingAway,
            });
        }
    }

    /// Opens a stream to a destination with its first bytes (client).
    pub fn open(&mut self, target: &Target, payload: Bytes, now: Instant) -> Result<StreamKey, OpenError> {
        if self.phase != Phase::Open || self.role != Role::Client {
            return Err(OpenError::NotOpen);
        }
        if self.streams.len() >= self.limits.streams {
            return Err(OpenError::Limit);
        }
        let id = StreamId(if self.last_own.0 == 0 { 1 } else { self.last_own.0.saturating_add(2) });
        if id == self.last_own {
            return Err(OpenError::Limit);
        }
        self.last_own = id;
        let key = match self.encoding {
            Encoding::V1 => self.fresh_key(),
            Encoding::V2 => StreamKey(id.0),
        };
        let mut stream = Stream::new(id, self.encoding == Encoding::V2, now);
        match self.encoding {
            Encoding::V1 => {
                self.ids.insert(id, key);
                self.streams.insert(key, stream);
                self.control.push_back(Frame::Open { id, target: None, payload: Bytes::new(), fin: false, udp: false });
                let mut head = BytesMut::zeroed(HEADROOM);
                target.encode(&mut head);
                head.extend_from_slice(&payload);
                self.send(key, head);
            }
            Encoding::V2 => {
                stream.outgoing.accepted = payload.len() as u64;
                self.streams.insert(key, stream);
                let target = Some(target.clone());
                self.control.push_back(Frame::Open { id, target, payload, fin: false, udp: false });
            }
        }
        Ok(key)
    }

    /// Ends both directions of a stream at once.
    pub fn reset(&mut self, key: StreamKey, code: StreamCode) {
        let Some(stream) = self.streams.get(&key) else { return };
        if stream.reset.is_none() {
            let id = stream.id;
            let known_to_peer = self.encoding == Encoding::V2 || self.ids.get(&id) == Some(&key);
            if known_to_peer && !(stream.outgoing.finished && stream.incoming.finished) {
                self.control.push_back(Frame::Reset { id, code });
            }
            self.mark_reset(key, code);
            self.events.push_back(Event::Wake(key));
        }
        self.release(key);
    }

    pub(super) fn mark_reset(&mut self, key: StreamKey, code: StreamCode) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.reset = Some(code);
            stream.outgoing.queue.clear();
            stream.outgoing.queued = 0;
        }
    }

    /// The owner of a stream is done with it; what it queued before [`Session::finish`] is still sent, otherwise the
    /// stream is cancelled.
    pub fn forget(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let answered = stream.incoming.finished || self.encoding == Encoding::V1;
        if answered && stream.outgoing.finish {
            stream.incoming.ended = true;
            self.release(key);
        } else {
            self.reset(key, StreamCode::Cancelled);
        }
    }

    /// Whether a stream was reset or its session is over.
    pub fn is_gone(&self, key: StreamKey) -> bool {
        self.streams.get(&key).is_none_or(|stream| stream.reset.is_some())
    }

    /// Drops a stream that is over in both directions.
    pub(super) fn release(&mut self, key: StreamKey) {
        let over = match self.streams.get(&key) {
            Some(stream) if self.encoding == Encoding::V1 && self.role == Role::Gateway => {
                stream.is_over() || stream.outgoing.finished && self.is_closed_here(key)
            }
            Some(stream) => stream.is_over(),
            None => false,
        };
        if over && let Some(stream) = self.streams.remove(&key) {
            if self.ids.get(&stream.id) == Some(&key) {
                self.ids.remove(&stream.id);
            }
            self.return_growth(&stream);
            if !stream.incoming.ended {
                self.events.push_back(Event::Wake(key));
            }
        }
    }

    /// A v1 gateway's close ends both directions: what the client still sends is ignored.
    fn is_closed_here(&self, key: StreamKey) -> bool {
        self.streams.get(&key).is_some_and(|stream| stream.outgoing.finish)
    }

    pub(super) fn can_half_close(&self) -> bool {
        self.encoding == Encoding::V2 || self.role == Role::Gateway
    }

    pub(super) fn fresh_key(&mut self) -> StreamKey {
        self.next_key = self.next_key.wrapping_add(1);
        StreamKey(self.next_key)
    }

    pub(super) fn ended(&mut self, code: SessionCode) {
        self.cancel_streams();
        self.closing = Some(Closing(None));
        self.events.push_back(Event::Ended { code });
    }

    fn cancel_streams(&mut self) {
        self.phase = Phase::Closed;
        self.streams.clear();
        self.ids.clear();
        self.ready.clear();
        self.buffered = 0;
        self.events.push_back(Event::WakeAll);
    }

    /// The next event, if there is one.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the transport must not hand over more messages now.
    pub fn is_paused(&self) -> bool {
        self.phase == Phase::Deciding
            || self.phase == Phase::Closed
            || self.paused_until.is_some()
            || self.control.len() >= CONTROL_BACKLOG
            || self.is_full()
    }

    fn is_full(&self) -> bool {
        self.encoding == Encoding::V1 && self.buffered >= self.limits.v1_buffer as u64
    }

    /// Whether [`Session::poll_transmit`] has something.
    pub fn wants_transmit(&self) -> bool {
        !self.control.is_empty() || self.transport_ping || self.closing.is_some() || !self.ready.is_empty()
    }

    /// A ping of the transport's own arrived.
    pub fn charge_ping(&mut self, now: Instant) -> Result<(), SessionError> {
        if self.pings.take(now) { Ok(()) } else { Err(SessionError::Flood("ping")) }
    }

    /// The transport's own pong arrived.
    pub fn pong(&mut self, now: Instant) {
        self.charge_tiny(0, now);
        if self.encoding == Encoding::V1 {
            self.ping_sent = None;
        }
    }

    /// Streams open now.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Whether `hello` was answered with consent and the session has not ended.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the session has ended; what it still has to say may be transmitted.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// A byte arrived from the peer.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    pub(super) fn ping(&mut self, now: Instant) {
        if self.ping_sent.is_some() {
            return;
        }
        self.ping_count = self.ping_count.wrapping_add(1);
        self.ping_sent = Some((self.ping_count, now));
        match self.encoding {
            Encoding::V1 => self.transport_ping = true,
            Encoding::V2 => self.control.push_back(Frame::Ping(self.ping_count.to_be_bytes())),
        }
    }

    pub(super) fn measured(&mut self, bytes: [u8; 8], now: Instant) {
        if let Some((count, sent)) = self.ping_sent
            && bytes == count.to_be_bytes()
        {
            self.ping_sent = None;
            let sample = now.saturating_duration_since(sent);
            self.rtt = Some(self.rtt.map_or(sample, |rtt| rtt.min(sample)));
        }
    }

    /// When [`Session::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Closed {
            return None;
        }
        let full = if self.is_full() { self.first_stall() } else { None };
        let keepalive = if self.ping_sent.is_some() || self.phase != Phase::Open {
            self.last_heard.checked_add(self.limits.dead_after)
        } else {
            self.last_heard.checked_add(self.ping_after())
        };
        let keepalive = if self.is_full() { None } else { keepalive };
        [full, keepalive, self.paused_until].into_iter().flatten().min()
    }

    fn ping_after(&self) -> Duration {
        self.limits.ping_after.mul_f64(0.8 + 0.4 * self.jitter)
    }

    fn first_stall(&self) -> Option<Instant> {
        let stalled = self.streams.values().filter(|stream| stream.unconsumed() > 0);
        stalled.filter_map(|stream| stream.incoming.progress.checked_add(self.limits.v1_stall_timeout)).min()
    }

    /// Does what is due: pings, closes stalled v1 streams, ends a pause; an error if the peer is silent for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.tiny.refill(now);
            self.paused_until = None;
        }
        if self.is_full() {
            self.last_heard = now;
            let timeout = self.limits.v1_stall_timeout;
            let stalled = self.streams.iter().filter(|(_, stream)| {
                stream.unconsumed() > 0 && now.saturating_duration_since(stream.incoming.progress) >= timeout
            });
            let stalled: Vec<_> = stalled.map(|(key, _)| *key).collect();
            for key in stalled {
                self.reset(key, StreamCode::Timeout);
            }
        }
        let silent = now.saturating_duration_since(self.last_heard);
        if silent >= self.limits.dead_after {
            return Err(SessionError::Silent(silent));
        }
        if silent >= self.ping_after() && self.phase == Phase::Open {
            self.ping(now);
        }
        Ok(())
    }
}
