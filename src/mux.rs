//! The sans-IO multiplexer: messages and the time go in; messages, events and deadlines come out (docs/04).
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod charge;
mod credit;
mod datagrams;
mod ending;
mod liveness;
mod memory;
mod opening;
mod pad;
mod payload;
mod receive;
mod resume;
mod retransmit;
mod send;
mod session;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod timers;
mod token_bucket;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::{Mux, Resume, V1};
use crate::frame::{DecodeError, Hello, HelloOk, Notice, Padding, SessionCode, StreamCode, StreamId, Target};

pub use charge::Pacer;
pub use memory::MemoryBudget;
pub use payload::{Message, Payload};
pub use session::Session;
pub use token_bucket::TokenBucket;

/// The receive window that both sides assume for a new stream with credit (docs/03, "Flow control").
pub const INITIAL_WINDOW: u64 = 64 * 1024;

/// Which end of the tunnel a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends `hello` and opens streams.
    Client,
    /// Answers them.
    Gateway,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was said yet.
    Greeting,
    /// The gateway has the `hello` and has not answered.
    Deciding,
    Open,
    Closed,
}

/// A stream as its owner knows it; unlike the id on the wire it is never used twice in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey(pub(crate) u32);

/// Limits and timers of a session; see `[mux]` in `config/default.toml`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Streams open at once.
    pub streams: usize,
    /// Largest receive window of one stream in bytes.
    pub window: u64,
    /// Bytes by which all windows of a session may exceed their initial size; as many waiting for the other side refuse
    /// new streams.
    pub window_pool: u64,
    /// The same for all sessions of the process.
    pub memory: Arc<MemoryBudget>,
    /// What sessions that can be resumed keep of what they have sent.
    pub kept: Arc<MemoryBudget>,
    /// The same of one session.
    pub kept_per_session: u64,
    /// Bytes that may wait to be sent on one stream.
    pub send_queue: usize,
    /// Bytes that may wait to be sent on all streams of a session, beyond one piece each.
    pub send_pool: usize,
    /// Bytes of datagrams that may wait on one stream each way; beyond it the oldest are dropped.
    pub udp_queue: usize,
    /// Bytes taken before `hello` is answered; beyond it the session is not read.
    pub early_bytes: usize,
    /// Streams opened before `hello` is answered; beyond it the session is not read.
    pub early_streams: usize,
    /// Padding of the gateway's first messages, and what clients are told (v2).
    pub padding: Padding,
    /// Unconsumed bytes at which a v1 session without windows stops reading.
    pub v1_buffer: usize,
    /// A v1 stream whose destination takes nothing for so long is closed.
    pub v1_stall_timeout: Duration,
    /// Bytes in a row that one stream may send before the next has its turn.
    pub quantum: usize,
    /// OPENs a second; more wait for their turn.
    pub opens_per_second: u32,
    /// RESETs a second; more end the session.
    pub resets_per_second: u32,
    /// PINGs a second; more end the session.
    pub pings_per_second: u32,
    /// Frames of under 64 bytes of payload a second; beyond it the session is read more slowly.
    pub tiny_frames_per_second: u32,
    /// Frames a second that move nothing; more end the session.
    pub idle_frames_per_second: u32,
    /// A ping is sent after so long without a byte from the peer.
    pub ping_after: Duration,
    /// The session ends after so long without a byte from the peer.
    pub dead_after: Duration,
    /// The same two while data is under way.
    pub ping_after_busy: Duration,
    pub dead_after_busy: Duration,
    /// By which share pings come sooner or later.
    pub ping_jitter: f64,
    /// Control frames that wait to be sent; with as many the session is not read.
    pub control_frames: usize,
    /// Waiting control frames beyond which the message that brought them about is a flood.
    pub control_frames_per_message: usize,
    /// The longest `ping_after` that a client may ask for.
    pub keepalive_max: Duration,
}

impl Limits {
    /// The limits of a configuration.
    pub fn new(mux: &Mux, v1: &V1, padding: Padding) -> Self {
        let size = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        Self {
            streams: mux.streams,
            window: mux.window.as_u64(),
            window_pool: mux.window_pool.as_u64(),
            memory: Arc::new(MemoryBudget::new(mux.process_pool.as_u64())),
            udp_queue: size(mux.udp_queue),
            early_bytes: size(mux.early_bytes),
            early_streams: mux.early_streams,
            padding,
            kept: Arc::new(MemoryBudget::new(0)),
            kept_per_session: 0,
            send_queue: size(mux.send_queue),
            send_pool: size(mux.send_pool),
            v1_buffer: size(v1.buffer),
            v1_stall_timeout: v1.stall_timeout,
            quantum: size(mux.quantum),
            opens_per_second: mux.opens_per_second,
            resets_per_second: mux.resets_per_second,
            pings_per_second: mux.pings_per_second,
            tiny_frames_per_second: mux.tiny_frames_per_second,
            idle_frames_per_second: mux.idle_frames_per_second,
            ping_after: mux.ping_after,
            dead_after: mux.dead_after,
            ping_after_busy: mux.ping_after_busy,
            dead_after_busy: mux.dead_after_busy,
            ping_jitter: mux.ping_jitter,
            control_frames: mux.control_frames,
            control_frames_per_message: mux.control_frames_per_message,
            keepalive_max: mux.keepalive_max,
        }
    }

    /// The same with room for what sessions keep until they are resumed.
    #[must_use]
    pub fn resumable(self, resume: &Resume) -> Self {
        let kept = Arc::new(MemoryBudget::new(resume.memory.as_u64()));
        Self { kept, kept_per_session: resume.session_memory.as_u64(), ..self }
    }
}

/// What happened, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The client introduced itself; answer with [`Session::accept`] or [`Session::close`].
    Hello(Box<Hello>),
    /// The gateway consented.
    Accepted(HelloOk),
    /// The peer opened a stream to a destination, or one for datagrams.
    Opened { key: StreamKey, target: Option<Target> },
    /// The peer will not execute streams above `last` and wants no more.
    GoingAway { last: StreamId, reconnect_in: Duration },
    /// The peer has news for the user.
    Notice(Notice),
    /// The connection was lost; the session is held until another one takes it up.
    Held,
    /// The session goes on over another connection (gateway).
    Resumed,
    /// The peer ended the session, and may have said more of it, and when to come back.
    Ended { code: SessionCode, message: String, retry_after: Option<Duration> },
    /// The stream has bytes, its end, or may be written again.
    Wake(StreamKey),
    /// Every stream has to look at its state.
    WakeAll,
}

/// What a stream's owner finds when it reads.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes; report them with [`Session::consumed`] once they are taken by the other side.
    Data(Bytes),
    /// The peer ended its direction; everything was delivered.
    Finished,
    /// The stream is gone.
    Reset(StreamCode),
    /// Nothing yet; [`Event::Wake`] follows.
    Nothing,
}

/// What a stream's owner may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// So many bytes in one piece, at least one.
    Bytes(usize),
    /// Nothing yet; [`Event::Wake`] follows.
    Blocked,
    /// The peer takes no more on this stream.
    Closed,
}

/// One thing for the transport to write.
#[derive(Debug)]
pub enum Transmit {
    /// A message.
    Message(Message),
    /// A ping of the transport's own (v1 has no frame for it).
    Ping,
    /// Nothing follows: close with this code.
    Close(Option<SessionCode>),
}

/// Why a session has to end because of what its peer did.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SessionError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("`{0}` is not expected now")]
    Unexpected(&'static str),
    #[error("stream id {0} is not above the last one or has the wrong parity")]
    StreamId(StreamId),
    #[error("more bytes than were granted on stream {0}")]
    FlowControl(StreamId),
    #[error("too many `{0}` a second")]
    Flood(&'static str),
    #[error("no byte from the peer for {0:?}")]
    Silent(Duration),
}

impl SessionError {
    /// The code that the peer is told.
    pub fn code(&self) -> SessionCode {
        match self {
            Self::Silent(_) => SessionCode::GoingAway,
            Self::Decode(_) | Self::Unexpected(_) | Self::StreamId(_) | Self::FlowControl(_) | Self::Flood(_) => {
                SessionCode::ProtocolError
            }
        }
    }
}

/// Why a stream cannot be opened by this side.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum OpenError {
    #[error("the session is not open")]
    NotOpen,
    #[error("the session has no room for another stream")]
    Limit,
    #[error("streams are opened too fast")]
    Later(Instant),
    #[error("the gateway does not carry datagrams")]
    Unsupported,
}
