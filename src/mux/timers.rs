use std::time::{Duration, Instant};

use super::{Phase, Session, SessionError};
use crate::config::jittered;
use crate::frame::{Encoding, Frame, StreamCode};

/// An older round trip is measured again before a window grows by it.
const RTT_VALID: Duration = Duration::from_secs(1);
/// Until the first measurement.
const RTT_ASSUMED: Duration = Duration::from_millis(100);

/// Round trips by PING, smoothed as in RFC 6298.
#[derive(Debug, Default)]
pub(super) struct Rtt {
    smoothed: Option<Duration>,
    measured: Option<Instant>,
    sent: Option<(u64, Instant)>,
    count: u64,
}

impl Rtt {
    pub(super) fn get(&self) -> Duration {
        self.smoothed.unwrap_or(RTT_ASSUMED)
    }

    /// Its ping was lost.
    pub(super) fn forget(&mut self) {
        self.sent = None;
    }

    /// Whether one is being measured.
    pub(super) fn is_under_way(&self) -> bool {
        self.sent.is_some()
    }

    fn sample(&mut self, sample: Duration, now: Instant) {
        let smoothed = match self.smoothed {
            Some(before) => before.saturating_mul(7).saturating_add(sample).div_f64(8.0),
            None => sample,
        };
        self.smoothed = Some(smoothed);
        self.measured = Some(now);
    }
}

impl Session {
    /// A byte arrived from the peer.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.liveness.heard();
    }

    /// How long the peer has sent nothing.
    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_heard)
    }

    /// Asks for the longer `ping_after` that a client wants, within the limit.
    pub(super) fn keep_alive(&mut self, wanted: Option<u32>) {
        let Some(seconds) = wanted else { return };
        let wanted = Duration::from_secs(seconds.into()).min(self.limits.keepalive_max);
        let longer = wanted.saturating_sub(self.limits.ping_after);
        self.ping_after = self.limits.ping_after.saturating_add(longer);
        self.dead_after = self.limits.dead_after.saturating_add(longer);
    }

    /// After how much idleness this side pings, and after how much silence it gives up.
    pub fn keepalive(&self) -> (Duration, Duration) {
        (self.ping_after, self.dead_after)
    }

    /// How long the peer has been silent beyond the latest moment at which this side would have pinged.
    pub fn overdue(&self, now: Instant) -> Duration {
        self.silence(now).saturating_sub(jittered(self.ping_after, self.limits.ping_jitter, 1.0))
    }

    /// Measures the round trip unless that was done lately.
    pub(super) fn measure(&mut self, now: Instant) {
        if self.rtt.measured.is_none_or(|at| now.saturating_duration_since(at) >= RTT_VALID) {
            self.ping(now);
        }
    }

    pub(super) fn ping(&mut self, now: Instant) {
        if self.rtt.sent.is_some() {
            return;
        }
        self.rtt.count = self.rtt.count.wrapping_add(1);
        self.rtt.sent = Some((self.rtt.count, now));
        self.liveness.pinging();
        match self.encoding {
            Encoding::V1 => self.transport_ping = true,
            Encoding::V2 => self.control.push_back(Frame::Ping(self.rtt.count.to_be_bytes())),
        }
    }

    pub(super) fn measured(&mut self, bytes: [u8; 8], now: Instant) {
        if let Some((count, sent)) = self.rtt.sent
            && bytes == count.to_be_bytes()
        {
            self.rtt.sent = None;
            self.took(now.saturating_duration_since(sent), now);
        }
    }

    pub(super) fn transport_pong(&mut self, now: Instant) {
        if self.encoding == Encoding::V1
            && let Some((_, sent)) = self.rtt.sent.take()
        {
            self.took(now.saturating_duration_since(sent), now);
        }
    }

    fn took(&mut self, sample: Duration, now: Instant) {
        self.rtt.sample(sample, now);
        self.liveness.answered();
    }

    /// When [`Session::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Closed {
            return None;
        }
        let full = if self.is_full() { self.first_stall() } else { None };
        let keepalive = if self.rtt.sent.is_some() || self.phase != Phase::Open {
            self.last_heard.checked_add(self.dead_after)
        } else {
            self.last_heard.checked_add(self.next_ping())
        };
        let keepalive = if self.is_unread() { None } else { keepalive };
        [full, keepalive, self.next_watch(), self.paused_until, self.next_turn()].into_iter().flatten().min()
    }

    /// A time that pings keep to, sooner or later by this session's part of the jitter.
    pub(super) fn jittered(&self, due: Duration) -> Duration {
        jittered(due, self.limits.ping_jitter, self.jitter)
    }

    fn next_ping(&self) -> Duration {
        self.jittered(self.ping_after)
    }

    fn first_stall(&self) -> Option<Instant> {
        let stalled = self.streams.values().filter(|stream| stream.waits());
        stalled.filter_map(|stream| stream.incoming.progress.checked_add(self.limits.v1_stall_timeout)).min()
    }

    /// Does what is due: pings, closes stalled v1 streams, ends a pause; an error if the peer is silent for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.tiny.refill(now);
            self.paused_until = None;
            self.liveness.unread(now);
        }
        self.take_turns(now);
        if self.is_unread() {
            self.last_heard = now;
        }
        if self.is_full() {
            let timeout = self.limits.v1_stall_timeout;
            let stalled = self.streams.iter().filter(|(_, stream)| {
                stream.waits() && now.saturating_duration_since(stream.incoming.progress) >= timeout
            });
            let stalled: Vec<_> = stalled.map(|(key, _)| *key).collect();
            for key in stalled {
                self.reset(key, StreamCode::Timeout);
            }
        }
        let silent = now.saturating_duration_since(self.last_heard);
        if silent >= self.dead_after {
            return Err(SessionError::Silent(silent));
        }
        if silent >= self.next_ping() && self.phase == Phase::Open {
            self.ping(now);
        }
        self.watch(now)
    }
}
