use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Invalid, Section, key, lasts};

/// What a SETTINGS frame may say of frames (RFC 9113, section 6.5.2), and what is sensible.
const FRAME: std::ops::RangeInclusive<u64> = 16_384..=1024 * 1024;
const WINDOW: std::ops::RangeInclusive<u64> = 65_535..=256 * 1024 * 1024;

/// `[http2]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http2 {
    /// Whether the gateway offers HTTP/2.
    pub enabled: bool,
    /// Frames a second that carry nothing.
    pub frames_per_second: u32,
    /// Receive window of a stream.
    pub stream_window: ByteSize,
    /// Receive window of a connection, beyond one of `stream_window` for each tunnel that was admitted.
    pub connection_window: ByteSize,
    /// Streams open at once on one connection.
    pub max_streams: u32,
    /// Largest header list of a request.
    pub header_list_max: ByteSize,
    /// Largest frame that is taken.
    pub frame_max: ByteSize,
    /// Bytes of one stream that may wait to be written.
    pub send_buffer: ByteSize,
    /// Streams that the peer resets before they were looked at; more end the connection.
    pub pending_resets_max: usize,
    /// Streams that are reset because of what the peer did; more end the connection.
    pub local_resets_max: usize,
    /// A connection without a stream ends after this time.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long the socket stays after GOAWAY, for the client to close first.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
}

impl Http2 {
    /// A size as HTTP/2 counts.
    pub fn size(size: ByteSize) -> u32 {
        u32::try_from(size.as_u64()).unwrap_or(u32::MAX)
    }
}

impl Section for Http2 {
    const NAME: &'static str = "http2";

    fn validate(&self) -> Result<(), Invalid> {
        for (key, size) in
            [(key!(Self, stream_window), self.stream_window), (key!(Self, connection_window), self.connection_window)]
        {
            if !WINDOW.contains(&size.as_u64()) {
                return Err(Invalid::new(key, "must be 65535 bytes to 256 MiB"));
            }
        }
        if !FRAME.contains(&self.frame_max.as_u64()) {
            return Err(Invalid::new(key!(Self, frame_max), "must be 16 KiB to 1 MiB"));
        }
        if !(1..=1000).contains(&self.max_streams) {
            return Err(Invalid::new(key!(Self, max_streams), "must be 1 to 1000"));
        }
        if !(8192..=1024 * 1024).contains(&self.header_list_max.as_u64()) {
            return Err(Invalid::new(key!(Self, header_list_max), "must be 8 KiB to 1 MiB"));
        }
        if !(16_384..=16 * 1024 * 1024).contains(&self.send_buffer.as_u64()) {
            return Err(Invalid::new(key!(Self, send_buffer), "must be 16 KiB to 16 MiB"));
        }
        if self.idle_timeout.is_zero() {
            return Err(Invalid::new(key!(Self, idle_timeout), "must be longer than zero"));
        }
        lasts(key!(Self, linger), self.linger, &(Duration::ZERO..=Duration::from_secs(10)))
    }
}
