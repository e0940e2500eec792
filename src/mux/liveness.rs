use std::time::{Duration, Instant};

use super::stream::Stream;
use super::{Phase, Session, SessionError};

/// With so many bytes in front of it a ping may be late on a slow line.
const MUCH: u64 = 32 * 1024;
/// No more are counted: sockets hold about as much.
const MOST: u64 = 256 * 1024;
/// How often a full transport is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A deadline that is past by more was past when data left.
const LATE: Duration = Duration::from_millis(100);

/// What is known of the line while data is under way (docs/04, "Keepalive").
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one line")]
pub(super) struct Liveness {
    /// Data has left since the peer was last heard.
    unanswered: bool,
    /// Data came, and since then neither a ping nor the answer to one.
    expecting: bool,
    /// Since when silence counts, if it does.
    began: Option<Instant>,
    /// Bytes that no answered ping has shown to have arrived.
    ahead: u64,
    /// What was sent behind the ping that is under way.
    behind_ping: u64,
    /// The line was seen to be faster than a slow one.
    quick: bool,
    /// Something was handed to the transport since the last look.
    moved: bool,
    /// At the last look the transport took nothing.
    full: bool,
    /// Although it had been full, it had taken something before the last look.
    lively: bool,
    looked: Instant,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            unanswered: false,
            expecting: false,
            began: None,
            ahead: 0,
            behind_ping: 0,
            quick: false,
            moved: false,
            full: false,
            lively: false,
            looked: now,
        }
    }

    /// A byte of the peer's arrived.
    pub(super) fn heard(&mut self) {
        self.unanswered = false;
        self.began = None;
    }

    /// Data of the peer's arrived.
    pub(super) fn received(&mut self) {
        self.expecting = true;
    }

    /// A stream was opened.
    pub(super) fn opened(&mut self) {
        self.unanswered = true;
    }

    /// So many bytes of data were handed to the transport.
    pub(super) fn sent(&mut self, len: usize) {
        self.unanswered = true;
        self.ahead = self.ahead.saturating_add(len as u64).min(MOST);
        self.behind_ping = self.behind_ping.saturating_add(len as u64);
    }

    /// A message was handed to the transport.
    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// The peer pinged: it has nothing else to say.
    pub(super) fn pinged(&mut self) {
        self.expecting = false;
    }

    /// A ping is about to leave.
    pub(super) fn pinging(&mut self) {
        self.behind_ping = 0;
    }

    /// It was answered.
    pub(super) fn answered(&mut self) {
        self.expecting = false;
        self.ahead = self.ahead.min(self.behind_ping);
    }

    /// The peer was not read until now.
    pub(super) fn unread(&mut self, now: Instant) {
        self.began = self.began.and(Some(now));
    }

    /// Notes whether the transport is full; one that was and has moved since carries what the peer acknowledges.
    fn look(&mut self, full: bool, now: Instant) {
        if now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        let progress = self.full && self.moved;
        if progress {
            self.began = self.began.map(|began| began.max(self.looked));
            self.quick = self.lively;
        }
        self.lively = progress;
        self.full = full;
        self.moved = false;
        self.looked = now;
    }

    /// How much silence is too much, of a time that is long enough unless the line is slow.
    fn dead_after(&self, dead_after: Duration, waiting: bool) -> Duration {
        if self.quick || self.ahead < MUCH && !waiting { dead_after } else { dead_after.saturating_mul(2) }
    }
}

impl Session {
    /// Whether silence while data is under way says anything: the peer may always send, and is read.
    fn is_watched(&self) -> bool {
        self.phase == Phase::Open && self.has_credit() && !self.is_paused()
    }

    /// Whether data waits for a transport that takes nothing.
    fn has_waiting(&self) -> bool {
        !self.ready.is_empty()
    }

    fn ping_after_busy(&self) -> Duration {
        self.jittered(self.limits.ping_after_busy)
    }

    /// When [`Session::watch`] has something to do.
    pub(super) fn next_watch(&self) -> Option<Instant> {
        let liveness = &self.liveness;
        let is_under_way = liveness.unanswered || liveness.expecting || self.has_waiting();
        if !is_under_way || !self.is_watched() {
            return None;
        }
        let due = match liveness.began {
            Some(began) if self.rtt.is_under_way() => {
                began.checked_add(liveness.dead_after(self.limits.dead_after_busy, self.has_waiting()))
            }
            Some(began) => began.checked_add(self.ping_after_busy()),
            None => self.last_heard.checked_add(self.ping_after_busy()),
        };
        let look = if self.has_waiting() { liveness.looked.checked_add(LOOK) } else { None };
        [due, look].into_iter().flatten().min()
    }

    /// Pings a peer that is silent while data is under way; an error if it was for too long.
    pub(super) fn watch(&mut self, now: Instant) -> Result<(), SessionError> {
        self.liveness.look(self.has_waiting(), now);
        if !self.is_watched() {
            self.liveness.unread(now);
            return Ok(());
        }
        self.liveness.unanswered = self.liveness.unanswered && !self.streams.is_empty();
        self.liveness.expecting = self.liveness.expecting && self.streams.values().any(Stream::may_bring_more);
        if !self.liveness.unanswered && !self.liveness.expecting && !self.has_waiting() {
            self.liveness.began = None;
            return Ok(());
        }
        let ping_after = self.ping_after_busy();
        let fresh = self.silence(now) > ping_after.saturating_add(LATE);
        let began = *self.liveness.began.get_or_insert(if fresh { now } else { self.last_heard });
        let silent = now.saturating_duration_since(began);
        if silent >= self.liveness.dead_after(self.limits.dead_after_busy, self.has_waiting()) {
            return Err(SessionError::Silent(self.silence(now)));
        }
        if silent >= ping_after {
            self.ping(now);
        }
        Ok(())
    }
}
