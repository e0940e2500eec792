//! The frame codec: what crosses a tunnel, in both encodings (docs/03).
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod binary;
mod code;
mod datagram;
mod features;
mod hello;
mod host;
pub mod json;
pub(crate) mod lenient;
mod notice;
mod padding;
mod resume;
mod target;
mod version;

use std::fmt;

use bytes::Bytes;

pub(crate) use code::named;
pub use code::{SessionCode, StreamCode};
pub use datagram::Datagram;
pub use features::{Feature, Features};
pub use hello::{Hello, HelloLimits, HelloOk, Token};
pub use host::{Host, is_strict_name};
pub use notice::Notice;
pub use padding::Padding;
pub use resume::{Resumable, Resume, StreamState};
pub use target::{Target, TargetError};
pub use version::Version;

/// Identifies a logical stream within a session; 0 is the session itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How frames are written on the wire; chosen by `Sec-WebSocket-Protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `httvps.v1`: JSON text messages.
    V1,
    /// `httvps.v2`: binary frames.
    V2,
}

impl Encoding {
    /// Its name in `Sec-WebSocket-Protocol`.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::V1 => "httvps.v1",
            Self::V2 => "httvps.v2",
        }
    }
}

/// One frame of either encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The client's first frame.
    Hello(Box<Hello>),
    /// The gateway's consent.
    HelloOk(HelloOk),
    /// Ends the session.
    Error { code: SessionCode, message: String, retry_after_ms: Option<u32> },
    /// Says why a stream is about to be closed (v1).
    StreamError { id: StreamId, code: StreamCode, message: String },
    /// Asks for a `Pong` with the same bytes.
    Ping([u8; 8]),
    /// Answers a `Ping`.
    Pong([u8; 8]),
    /// No stream above `last` was or will be executed.
    GoAway { last: StreamId, reconnect_in_ms: u32, code: SessionCode },
    /// So many bytes to be ignored.
    Padding(u16),
    /// News for the user.
    Notice(Notice),
    /// Opens a stream; without a target the payload begins with it.
    Open { id: StreamId, target: Option<Target>, payload: Bytes, fin: bool, udp: bool },
    /// Payload of a stream; `fin` ends the sender's direction.
    Data { id: StreamId, payload: Bytes, fin: bool },
    /// Credit in absolute offsets: what was consumed, what may be sent in all.
    Window { id: StreamId, consumed: u64, limit: u64 },
    /// Ends both directions at once and drops what is queued.
    Reset { id: StreamId, code: StreamCode },
    /// Delivers what is queued, then ends both directions, or the sender's alone (v1).
    Close { id: StreamId, half: bool },
}

/// Why bytes are not a frame. The session that sent them ends with `PROTOCOL_ERROR`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("a frame header or payload is cut short")]
    Truncated,
    #[error("unknown frame type 0x{0:02x}")]
    UnknownType(u8),
    #[error("unknown message type")]
    UnknownMessage,
    #[error("frame of type 0x{0:02x} has the wrong length")]
    WrongLength(u8),
    #[error("not a JSON message: {0}")]
    Json(String),
    #[error("field `{0}` is missing or of the wrong type")]
    Field(&'static str),
    #[error("`payload` is not base64")]
    Base64,
    #[error("text is not UTF-8")]
    Utf8,
    #[error("stream id 0 where a stream is needed, or the other way round")]
    StreamId,
    #[error(transparent)]
    Target(#[from] TargetError),
}
