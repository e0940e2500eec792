use std::fmt::Debug;
use std::time::Instant;

use super::{Role, Session, SessionError};
use crate::frame::binary::HEADER_LEN;

/// Payloads below this make a frame small.
const TINY: usize = 64;
/// Small frames that a refused OPEN counts for.
const REFUSAL: usize = 16;

/// Slows a peer down for bytes that it sends and that are not billed.
pub trait Pacer: Debug + Send + Sync {
    /// Such bytes came; gives when more may be read, if not now.
    fn idle(&self, bytes: usize) -> Option<Instant>;
}

impl Session {
    /// A frame with a payload of so many bytes: what is small is charged.
    pub(super) fn charge_tiny(&mut self, len: usize, now: Instant) {
        if len < TINY && !self.tiny.spend(now) {
            self.pause(self.tiny.next());
        }
    }

    /// A frame that moves nothing, whatever its length: it counts as a small one, its bytes at the plan's rate, and too
    /// many of a client's end the session.
    pub(super) fn charge_idle(&mut self, len: usize, now: Instant) -> Result<(), SessionError> {
        self.charge_bytes(len.saturating_add(HEADER_LEN));
        self.charge_steering(now)
    }

    /// A frame that steers what moves, such as WINDOW: it counts as one that moves nothing, but waits for nobody's bytes.
    pub(super) fn charge_steering(&mut self, now: Instant) -> Result<(), SessionError> {
        self.charge_tiny(0, now);
        let may = self.role == Role::Client || self.idle.take(now);
        if may { Ok(()) } else { Err(SessionError::Flood("frames that move nothing")) }
    }

    /// Bytes that are thrown away.
    pub(super) fn charge_bytes(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let until = self.pacer.as_ref().and_then(|pacer| pacer.idle(bytes));
        self.pause(until);
    }

    /// A refusal costs more than a small frame: it has to be answered.
    pub(super) fn charge_refusal(&mut self, len: usize, now: Instant) {
        for _ in 0..REFUSAL {
            self.charge_tiny(0, now);
        }
        self.charge_bytes(len.saturating_add(HEADER_LEN));
    }

    /// A ping of the transport's own arrived.
    pub fn charge_ping(&mut self, now: Instant) -> Result<(), SessionError> {
        if self.pings.take(now) { Ok(()) } else { Err(SessionError::Flood("ping")) }
    }

    /// The transport's own pong arrived.
    pub fn pong(&mut self, now: Instant) -> Result<(), SessionError> {
        self.charge_steering(now)?;
        self.transport_pong(now);
        Ok(())
    }

    /// The transport brought so many bytes in a piece of their own: small ones cost what small frames do.
    pub fn charge_piece(&mut self, len: usize, now: Instant) {
        self.charge_tiny(len, now);
    }

    /// So many fragments of a message arrived that were small.
    pub fn charge_fragments(&mut self, count: usize, now: Instant) -> Result<(), SessionError> {
        (0..count).try_for_each(|_| self.charge_idle(0, now))
    }

    fn pause(&mut self, until: Option<Instant>) {
        self.paused_until = self.paused_until.max(until);
    }
}
