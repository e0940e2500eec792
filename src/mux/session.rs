use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::liveness::Liveness;
use super::pad::Random;
use super::retransmit::Retransmission;
use super::stream::Stream;
use super::timers::Rtt;
use super::token_bucket::TokenBucket;
use super::{Event, Limits, MemoryBudget, Pacer, Phase, Role, StreamKey};
use crate::frame::{
    Encoding, Feature, Features, Frame, Hello, HelloOk, Notice, SessionCode, StreamCode, StreamId, Target,
};

/// The last id of a GOAWAY that refuses no stream yet.
const EVERY_STREAM: StreamId = StreamId(u32::MAX);

/// The transport is to be closed, with a code for the peer if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing(pub(super) Option<SessionCode>);

/// One tunnel's state at one end: streams, credit, limits and timers, without a socket or a clock.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a session")]
pub struct Session {
    pub(super) role: Role,
    pub(super) encoding: Encoding,
    pub(super) features: Features,
    /// What a v1 client asked for and reads until it is answered.
    pub(super) wanted: Features,
    pub(super) limits: Arc<Limits>,
    /// The process's budget, then the account's part of it.
    pub(super) memory: Arc<MemoryBudget>,
    pub(super) phase: Phase,
    /// `hello` was said, or heard.
    pub(super) greeted: bool,
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
    /// Streams that this side may have open.
    pub(super) streams_max: usize,
    pub(super) opens: TokenBucket,
    /// Streams that were opened faster than they may be.
    pub(super) turns: VecDeque<(StreamKey, Option<Target>)>,
    pub(super) resets: TokenBucket,
    pub(super) pings: TokenBucket,
    pub(super) tiny: TokenBucket,
    /// Of frames that move nothing.
    pub(super) idle: TokenBucket,
    pub(super) pacer: Option<Arc<dyn Pacer>>,
    pub(super) paused_until: Option<Instant>,
    pub(super) early: usize,
    pub(super) padding: VecDeque<(u16, u16)>,
    pub(super) random: Random,
    pub(super) retransmission: Retransmission,
    /// A client has asked to go on with a session and waits for the answer.
    pub(super) resuming: Option<Frame>,
    /// A client has asked that, and says nothing before it is answered.
    pub(super) is_asked: bool,
    /// Something came behind the last `hello`.
    pub(super) confirmed: bool,
    pub(super) rtt: Rtt,
    pub(super) liveness: Liveness,
    pub(super) last_heard: Instant,
    pub(super) ping_after: Duration,
    pub(super) dead_after: Duration,
    pub(super) jitter: f64,
}

impl Session {
    /// A session at its start. `seed` makes its pings and its padding differ from those of others.
    pub fn new(role: Role, encoding: Encoding, limits: Arc<Limits>, seed: u64, now: Instant) -> Self {
        let mut random = Random::new(seed);
        Self {
            role,
            encoding,
            features: if encoding == Encoding::V2 { Features::ALL } else { Features::NONE },
            phase: Phase::Greeting,
            greeted: false,
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
            streams_max: limits.streams,
            opens: TokenBucket::new(limits.opens_per_second, now),
            turns: VecDeque::new(),
            resets: TokenBucket::new(limits.resets_per_second, now),
            pings: TokenBucket::new(limits.pings_per_second, now),
            tiny: TokenBucket::new(limits.tiny_frames_per_second, now),
            idle: TokenBucket::new(limits.idle_frames_per_second, now),
            pacer: None,
            paused_until: None,
            early: 0,
            padding: if role == Role::Gateway {
                limits.padding.ranges().iter().copied().collect()
            } else {
                VecDeque::new()
            },
            jitter: random.fraction(),
            random,
            retransmission: Retransmission::new(&limits),
            resuming: None,
            is_asked: false,
            confirmed: false,
            rtt: Rtt::default(),
            liveness: Liveness::new(now),
            last_heard: now,
            ping_after: limits.ping_after,
            dead_after: limits.dead_after,
            wanted: Features::NONE,
            memory: Arc::clone(&limits.memory),
            limits,
        }
    }

    /// Sends the client's `hello`; with v2 streams may be opened right behind it.
    pub fn hello(&mut self, hello: Hello) {
        self.keep_alive(hello.keepalive);
        self.wanted = hello.features;
        self.greeted = true;
        self.retransmission.is_on = self.can_resume(hello.features);
        self.control.push_back(Frame::Hello(Box::new(hello)));
    }

    /// Consents to a `hello`; streams may be opened from here on.
    pub fn accept(&mut self, ok: HelloOk) {
        if self.phase == Phase::Deciding {
            self.phase = Phase::Open;
            if ok.resume.is_some() {
                self.keep_from_here();
            }
            self.control.push_back(Frame::HelloOk(ok));
        }
    }

    /// Counts what this session holds for an account's part of the process's budget from now on.
    pub fn charge(&mut self, account: Arc<MemoryBudget>) {
        account.adopt(self.limits.window_pool.saturating_sub(self.pool_left), self.buffered);
        self.memory = account;
    }

    /// Lets what the peer sends without moving anything take the time that it would take if it did.
    pub fn pace(&mut self, pacer: Arc<dyn Pacer>) {
        self.pacer = Some(pacer);
    }

    /// Tells the peer's user something, if the peer understands it.
    pub fn notice(&mut self, notice: Notice) {
        if self.phase == Phase::Open && self.features.has(Feature::Notice) {
            self.control.push_back(Frame::Notice(notice));
        }
    }

    /// Ends the session with an error for a peer that has said `hello`, or quietly without one. Streams are cancelled.
    pub fn close(&mut self, code: Option<SessionCode>, message: &str, retry_after: Option<Duration>) {
        if self.phase == Phase::Closed {
            return;
        }
        self.cancel_streams();
        self.control.retain(|frame| matches!(frame, Frame::HelloOk(_)));
        if let Some(code) = code
            && self.role == Role::Gateway
            && self.greeted
        {
            let retry_after_ms = retry_after.map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
            self.control.push_back(Frame::Error { code, message: message.to_owned(), retry_after_ms });
        }
        self.closing = Some(Closing(code));
    }

    /// Asks a v2 peer to go on elsewhere; its streams are taken until [`Session::refuse_streams`].
    pub fn drain(&mut self, reconnect_in: Duration) {
        if !self.draining {
            self.go_away(EVERY_STREAM, reconnect_in);
        }
    }

    /// Refuses new streams and tells a v2 peer which was the last.
    pub fn refuse_streams(&mut self) {
        if !self.draining {
            self.draining = true;
            self.go_away(self.last_peer, Duration::ZERO);
        }
    }

    pub(super) fn go_away(&mut self, last: StreamId, reconnect_in: Duration) {
        if self.encoding == Encoding::V2 && self.phase == Phase::Open {
            let reconnect_in_ms = u32::try_from(reconnect_in.as_millis()).unwrap_or(u32::MAX);
            self.control.push_back(Frame::GoAway { last, reconnect_in_ms, code: SessionCode::GoingAway });
        }
    }

    /// The gateway goes away and executes no stream above this one.
    pub(super) fn handle_go_away(&mut self, last: StreamId) {
        if last == EVERY_STREAM {
            return;
        }
        self.draining = true;
        let not_executed = self.streams.keys().filter(|key| key.0 > last.0).copied().collect::<Vec<_>>();
        for key in not_executed {
            self.mark_reset(key, StreamCode::Cancelled);
            self.events.push_back(Event::Wake(key));
        }
    }

    pub(super) fn has_credit(&self) -> bool {
        self.features.has(Feature::Window)
    }

    pub(super) fn has_half_close(&self) -> bool {
        self.features.has(Feature::Half)
    }

    pub(super) fn can_half_close(&self) -> bool {
        self.has_half_close() || self.role == Role::Gateway
    }

    pub(super) fn fresh_key(&mut self) -> StreamKey {
        self.next_key = self.next_key.wrapping_add(1);
        StreamKey(self.next_key)
    }

    pub(super) fn ended(&mut self, code: SessionCode, message: String, retry_after: Option<Duration>) {
        self.cancel_streams();
        self.closing = Some(Closing(None));
        self.events.push_back(Event::Ended { code, message, retry_after });
    }

    fn cancel_streams(&mut self) {
        self.phase = Phase::Closed;
        for (_, stream) in std::mem::take(&mut self.streams) {
            self.release_budget(stream);
        }
        self.ids.clear();
        self.ready.clear();
        self.turns.clear();
        self.events.push_back(Event::WakeAll);
    }

    /// The next event, if there is one.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the transport must not hand over more messages now.
    pub fn is_paused(&self) -> bool {
        let is_busy =
            self.paused_until.is_some() || self.control.len() >= self.limits.control_frames || self.is_unread();
        self.phase == Phase::Closed || is_busy && !self.is_resuming()
    }

    pub(super) fn is_flooded(&self) -> bool {
        self.control.len() > self.limits.control_frames_per_message
    }

    /// Whether the peer is not read for reasons that are not its silence.
    pub(super) fn is_unread(&self) -> bool {
        self.is_full() || self.is_early_full()
    }

    pub(super) fn is_full(&self) -> bool {
        !self.has_credit() && self.buffered >= self.limits.v1_buffer as u64
    }

    fn is_early_full(&self) -> bool {
        self.phase == Phase::Deciding
            && self.role == Role::Gateway
            && (self.early >= self.limits.early_bytes || self.streams.len() >= self.limits.early_streams)
    }

    /// Whether [`Session::poll_transmit`] has something.
    pub fn wants_transmit(&self) -> bool {
        if self.is_resuming() {
            return self.resuming.is_some() || self.closing.is_some();
        }
        !self.control.is_empty() || self.transport_ping || self.closing.is_some() || !self.ready.is_empty()
    }

    /// Streams whose destination has not taken what waited for it within a time, and how many bytes wait now.
    pub fn stalled(&self, after: Duration, now: Instant) -> impl Iterator<Item = (StreamKey, u64)> {
        let stalled = self.streams.iter().filter(move |(_, stream)| stream.is_stalled(after, now));
        stalled.map(|(key, stream)| (*key, stream.unconsumed()))
    }

    /// Streams open now.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Whether `hello` was answered with consent and the session has not ended.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether this is a gateway that has not heard `hello`: it says nothing, not even why it closes.
    pub fn is_unheard(&self) -> bool {
        self.role == Role::Gateway && !self.greeted
    }

    /// Whether the session has ended; what it still has to say may be transmitted.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cancel_streams();
    }
}
