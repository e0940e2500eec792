use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Invalid, Section, key, lasts, within};
use crate::frame;

/// `[mux]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mux {
    /// Open streams of one session.
    pub streams: usize,
    /// Largest receive window of a stream.
    pub window: ByteSize,
    /// By how much all windows of a session may exceed their initial size.
    pub window_pool: ByteSize,
    /// The same for all sessions of the process.
    pub process_pool: ByteSize,
    /// The same for all sessions of one user.
    pub account_pool: ByteSize,
    /// A stream whose destination does not take what waits for it within this time may be reset while memory is short.
    #[serde(with = "humantime_serde")]
    pub stall_after: Duration,
    /// Bytes waiting to be sent on one stream.
    pub send_queue: ByteSize,
    /// Bytes waiting to be sent on all streams of a session, beyond one piece each.
    pub send_pool: ByteSize,
    /// Bytes of datagrams waiting on one stream each way.
    pub udp_queue: ByteSize,
    /// Bytes taken before `hello` is answered.
    pub early_bytes: ByteSize,
    /// Streams opened before `hello` is answered.
    pub early_streams: usize,
    /// Bytes one stream sends before the next has its turn.
    pub quantum: ByteSize,
    /// OPENs a second.
    pub opens_per_second: u32,
    /// RESETs a second.
    pub resets_per_second: u32,
    /// PINGs a second.
    pub pings_per_second: u32,
    /// Frames of under 64 bytes a second.
    pub tiny_frames_per_second: u32,
    /// Frames that move nothing a second.
    pub idle_frames_per_second: u32,
    /// Idle time before a ping.
    #[serde(with = "humantime_serde")]
    pub ping_after: Duration,
    /// Silence after which a peer is gone.
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    /// Silence before a ping while data is under way.
    #[serde(with = "humantime_serde")]
    pub ping_after_busy: Duration,
    /// Silence after which a peer is gone while data is under way.
    #[serde(with = "humantime_serde")]
    pub dead_after_busy: Duration,
    /// By which share pings come sooner or later.
    pub ping_jitter: f64,
    /// Control frames that wait to be sent.
    pub control_frames: usize,
    /// Control frames that one message may bring about.
    pub control_frames_per_message: usize,
    /// The longest idle time before a ping that a client may ask for.
    #[serde(with = "humantime_serde")]
    pub keepalive_max: Duration,
}

/// A time that comes sooner or later by up to a share of it: by all of the share sooner at 0, later at 1.
pub fn jittered(time: Duration, share: f64, at: f64) -> Duration {
    time.mul_f64(1.0 + share * (2.0 * at - 1.0))
}

impl Section for Mux {
    const NAME: &'static str = "mux";

    fn validate(&self) -> Result<(), Invalid> {
        if !(1..=65_536).contains(&self.streams) {
            return Err(Invalid::new(key!(Self, streams), "must be 1 to 65536"));
        }
        if self.window.as_u64() < 64 * 1024 {
            return Err(Invalid::new(key!(Self, window), "must be at least 64 KiB"));
        }
        if self.send_queue.as_u64() == 0 || self.quantum.as_u64() == 0 {
            return Err(Invalid::new(key!(Self, send_queue), "send_queue and quantum must be larger than zero"));
        }
        let frames = [self.tiny_frames_per_second, self.idle_frames_per_second];
        let rates = [self.opens_per_second, self.resets_per_second, self.pings_per_second];
        if rates.contains(&0) || frames.contains(&0) {
            return Err(Invalid::new(key!(Self, opens_per_second), "rates must be at least 1"));
        }
        within(key!(Self, control_frames), self.control_frames, &(16..=65_536))?;
        if self.control_frames_per_message < self.control_frames {
            return Err(Invalid::new(key!(Self, control_frames_per_message), "must be at least control_frames"));
        }
        within(key!(Self, ping_jitter), self.ping_jitter, &(0.0..=0.5))?;
        if self.dead_after <= jittered(self.ping_after, self.ping_jitter, 1.0) {
            return Err(Invalid::new(
                key!(Self, dead_after),
                "must be longer than ping_after by more than ping_jitter",
            ));
        }
        if self.ping_after_busy < Duration::from_millis(100) || self.dead_after_busy < self.ping_after_busy * 2 {
            let reason = "must be at least twice ping_after_busy, and that 100ms";
            return Err(Invalid::new(key!(Self, dead_after_busy), reason));
        }
        if self.window_pool.as_u64() < 64 * 1024 {
            return Err(Invalid::new(key!(Self, window_pool), "must be at least 64 KiB"));
        }
        if self.account_pool.as_u64() < 64 * 1024 {
            return Err(Invalid::new(key!(Self, account_pool), "must be at least 64 KiB"));
        }
        if self.stall_after < Duration::from_millis(100) {
            return Err(Invalid::new(key!(Self, stall_after), "must be at least 100ms"));
        }
        if self.early_streams == 0 || self.early_bytes.as_u64() == 0 {
            return Err(Invalid::new(key!(Self, early_streams), "early_streams and early_bytes must be at least 1"));
        }
        Ok(())
    }
}

/// `[padding]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Padding {
    /// Least and most bytes behind each of the first messages of a direction.
    pub scheme: frame::Padding,
}

impl Section for Padding {
    const NAME: &'static str = "padding";

    fn validate(&self) -> Result<(), Invalid> {
        if self.scheme.is_valid() {
            return Ok(());
        }
        let (messages, bytes) = (frame::Padding::MAX_MESSAGES, frame::Padding::MAX_BYTES);
        Err(Invalid::new(
            key!(Self, scheme),
            format!("must be at most {messages} pairs [least, most] of at most {bytes} bytes"),
        ))
    }
}

/// `[notices]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Notices {
    /// Used traffic, in rising per cent of the period's limit, of which users are told.
    pub quota_percent: Vec<u8>,
    /// How long before its end users are told that the subscription ends.
    #[serde(with = "humantime_serde")]
    pub expiry_before: Duration,
}

impl Section for Notices {
    const NAME: &'static str = "notices";

    fn validate(&self) -> Result<(), Invalid> {
        let rising = self.quota_percent.is_sorted_by(|a, b| a < b);
        if rising && self.quota_percent.iter().all(|percent| (1..=99).contains(percent)) {
            return Ok(());
        }
        Err(Invalid::new(key!(Self, quota_percent), "must be rising numbers from 1 to 99"))
    }
}

/// `[v1]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct V1 {
    /// Largest message.
    pub message_max: ByteSize,
    /// Bytes a session buffers before it stops reading.
    pub buffer: ByteSize,
    /// A stream whose destination takes nothing for so long is closed.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
}

impl Section for V1 {
    const NAME: &'static str = "v1";

    fn validate(&self) -> Result<(), Invalid> {
        if self.buffer.as_u64() == 0 || self.message_max.as_u64() < 1024 {
            return Err(Invalid::new(key!(Self, message_max), "must be at least 1 KiB, and buffer larger than zero"));
        }
        Ok(())
    }
}

/// `[relay]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// Longest time to reach a node.
    #[serde(with = "humantime_serde")]
    pub dial_timeout: Duration,
    /// A new stream that brings nothing back for so long casts doubt on its node, which is probed at once.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// How long a stream's end waits for a look whether its node is still there; zero passes every end on.
    #[serde(with = "humantime_serde")]
    pub end_check: Duration,
    /// How long a target waits for the first bytes to travel with it.
    #[serde(with = "humantime_serde")]
    pub coalesce: Duration,
    /// How long the other side of a stream that is over may take to close.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// A stream without a byte either way ends after this time.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// An association without a datagram either way ends after this time.
    #[serde(with = "humantime_serde")]
    pub udp_idle_timeout: Duration,
    /// Names of datagrams' destinations that one association remembers.
    pub udp_names: usize,
}

impl Section for Relay {
    const NAME: &'static str = "relay";

    fn validate(&self) -> Result<(), Invalid> {
        if self.first_byte_timeout.is_zero() {
            return Err(Invalid::new(key!(Self, first_byte_timeout), "must be longer than zero"));
        }
        if self.udp_names == 0 {
            return Err(Invalid::new(key!(Self, udp_names), "must be at least 1"));
        }
        Ok(())
    }
}

/// `[rate_limit]`
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// A device that was idle may send for so long at once.
    #[serde(with = "humantime_serde")]
    pub burst: Duration,
    /// One stream has its turn for so long.
    #[serde(with = "humantime_serde")]
    pub turn: Duration,
}

impl Section for RateLimit {
    const NAME: &'static str = "rate_limit";

    fn validate(&self) -> Result<(), Invalid> {
        lasts(key!(Self, burst), self.burst, &(Duration::from_millis(1)..=Duration::from_secs(10)))?;
        lasts(key!(Self, turn), self.turn, &(Duration::from_millis(1)..=Duration::from_secs(1)))
    }
}

/// Who resolves the names of destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolve {
    /// The gateway, which checks every address.
    Gateway,
    /// Nodes that filter themselves.
    Node,
}

/// `[egress]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// Who resolves names.
    pub resolve: Resolve,
    /// Whether private and similar destinations are allowed.
    pub allow_private: bool,
    /// Destination ports that are refused.
    pub blocked_ports: Vec<u16>,
    /// Longest time to resolve a name.
    #[serde(with = "humantime_serde")]
    pub resolve_timeout: Duration,
    /// Name servers that are asked for destinations; without any the system's.
    pub resolvers: Vec<String>,
    /// Names looked up at once.
    pub lookups: usize,
    /// Names of one session looked up at once.
    pub lookups_per_session: usize,
    /// So long after the first bytes were sent, a stream that ends without any says something of its destination's address.
    #[serde(with = "humantime_serde")]
    pub avoid_after: Duration,
    /// How long an address that gave nothing is tried after the name's others, by the same session.
    #[serde(with = "humantime_serde")]
    pub avoid_for: Duration,
    /// Such addresses that a session remembers.
    pub avoid_max: usize,
    /// How long the datagrams of an association use what a name was resolved to.
    #[serde(with = "humantime_serde")]
    pub name_ttl: Duration,
}

impl Egress {
    /// The addresses of `resolvers`.
    pub fn name_servers(&self) -> Vec<std::net::SocketAddr> {
        self.resolvers.iter().filter_map(|text| super::net::name_server(text)).collect()
    }
}

impl Section for Egress {
    const NAME: &'static str = "egress";

    fn validate(&self) -> Result<(), Invalid> {
        if let Some(bad) = self.resolvers.iter().find(|text| super::net::name_server(text).is_none()) {
            let reason = format!("{bad:?} is no address of a name server, such as 10.0.0.53 or [fd00::53]:5353");
            return Err(Invalid::new(key!(Self, resolvers), reason));
        }
        if self.lookups == 0 || self.lookups_per_session == 0 {
            return Err(Invalid::new(key!(Self, lookups), "lookups and lookups_per_session must be at least 1"));
        }
        within(key!(Self, avoid_max), self.avoid_max, &(1..=65_536))
    }
}

/// `[probe]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Time between probes of a node.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Longest wait for an answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// `host:port` of an HTTP server asked through each node; empty only connects.
    pub target: String,
    /// First pause before a node that is down is probed again; it doubles.
    #[serde(with = "humantime_serde")]
    pub retry_min: Duration,
    /// Longest pause between probes of a node that is down or under rotation.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    /// How often it is found out whether a node keeps half closes; zero never does.
    #[serde(with = "humantime_serde")]
    pub half_close_interval: Duration,
    /// Half closes in a row that have to be kept.
    pub half_closes: u32,
}

impl Section for Probe {
    const NAME: &'static str = "probe";

    fn validate(&self) -> Result<(), Invalid> {
        if !self.target.is_empty() && frame::Target::parse(&self.target).is_err() {
            return Err(Invalid::new(key!(Self, target), "must be host:port"));
        }
        let spans = [
            (key!(Self, interval), self.interval),
            (key!(Self, timeout), self.timeout),
            (key!(Self, retry_min), self.retry_min),
        ];
        if let Some((key, _)) = spans.into_iter().find(|(_, span)| span.is_zero()) {
            return Err(Invalid::new(key, "must be longer than zero"));
        }
        if self.retry_after < self.retry_min {
            return Err(Invalid::new(key!(Self, retry_after), "must be at least probe.retry_min"));
        }
        within(key!(Self, half_closes), self.half_closes, &(1..=20))
    }
}
