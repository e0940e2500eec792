use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::retransmit::RetransmitBuffer;
use super::{INITIAL_WINDOW, Payload};
use crate::frame::{StreamCode, StreamId, Target};

/// A smaller payload is copied, so that it does not hold the whole message in memory while it is queued.
const WORTH_KEEPING: usize = 4 * 1024;
/// The same once much waits.
const WORTH_KEEPING_CROWDED: usize = 32 * 1024;

/// What arrives on a stream, and how much more may.
#[derive(Debug)]
pub(super) struct Incoming {
    queue: VecDeque<Bytes>,
    /// Small payloads behind the queue, gathered: many frames of a byte cost bytes, not frames.
    small: BytesMut,
    pub(super) received: u64,
    pub(super) consumed: u64,
    pub(super) limit: u64,
    pub(super) window: u64,
    pub(super) granted_at: Option<Instant>,
    pub(super) finished: bool,
    /// The owner has seen the end.
    pub(super) ended: bool,
    pub(super) progress: Instant,
    /// What had arrived at `marked_at`; once it was all taken, a new mark is set.
    pub(super) marked: u64,
    marked_at: Instant,
    /// The other side was told that its end was taken.
    pub(super) end_told: bool,
}

impl Incoming {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.small.is_empty()
    }

    pub(super) fn push(&mut self, payload: Bytes, crowded: bool) {
        let worth_keeping = if crowded { WORTH_KEEPING_CROWDED } else { WORTH_KEEPING };
        if payload.len() < worth_keeping {
            self.small.extend_from_slice(&payload);
            return;
        }
        self.flush();
        self.queue.push_back(payload);
    }

    /// Adds what stays in one piece.
    pub(super) fn push_whole(&mut self, payload: Bytes) {
        self.queue.push_back(payload);
    }

    pub(super) fn mark(&mut self, now: Instant) {
        self.marked = self.received;
        self.marked_at = now;
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.queue.is_empty() {
            self.flush();
        }
        self.queue.pop_front()
    }

    pub(super) fn pieces(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.small = BytesMut::new();
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.queue.push_back(self.small.split().freeze());
        }
    }
}

/// What leaves on a stream, and how much more may.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one direction")]
pub(super) struct Outgoing {
    pub(super) queue: VecDeque<Payload>,
    pub(super) queued: usize,
    pub(super) accepted: u64,
    pub(super) limit: u64,
    pub(super) deficit: usize,
    pub(super) scheduled: bool,
    pub(super) blocked: bool,
    pub(super) finish: bool,
    pub(super) finished: bool,
    /// What was sent and not taken, in a session that can be resumed.
    pub(super) kept: Option<RetransmitBuffer>,
    /// The other side has said that it has the end.
    pub(super) end_taken: bool,
}

impl Outgoing {
    /// Bytes given to the transport.
    pub(super) fn sent(&self) -> u64 {
        self.accepted.saturating_sub(self.queued as u64)
    }

    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.finished && (self.kept.is_none() || self.end_taken)
    }
}

/// One logical stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Bytes of a v1 target that is not complete yet.
    pub(super) head: Option<BytesMut>,
    /// It waits for its turn to be announced.
    pub(super) in_turn: bool,
    /// It carries datagrams: no credit, the oldest are dropped.
    pub(super) udp: bool,
    /// Where it leads, for a client that may have to open it again.
    pub(super) target: Option<Box<Target>>,
    /// The peer was told that nobody listens.
    pub(super) stopped: bool,
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    pub(super) reset: Option<StreamCode>,
}

impl Stream {
    pub(super) fn new(id: StreamId, credit: bool, now: Instant) -> Self {
        let limit = if credit { INITIAL_WINDOW } else { u64::MAX };
        Self {
            id,
            head: None,
            in_turn: false,
            udp: false,
            target: None,
            stopped: false,
            incoming: Incoming {
                queue: VecDeque::new(),
                small: BytesMut::new(),
                received: 0,
                consumed: 0,
                limit,
                window: INITIAL_WINDOW,
                granted_at: None,
                finished: false,
                ended: false,
                progress: now,
                marked: 0,
                marked_at: now,
                end_told: false,
            },
            outgoing: Outgoing {
                queue: VecDeque::new(),
                queued: 0,
                accepted: 0,
                limit,
                deficit: 0,
                scheduled: false,
                blocked: false,
                finish: false,
                finished: false,
                kept: None,
                end_taken: false,
            },
            reset: None,
        }
    }

    /// Whether nobody was told of it.
    pub(super) fn is_unseen(&self) -> bool {
        self.in_turn || self.head.is_some()
    }

    /// Whether its target has not come whole.
    pub(super) fn is_headless(&self) -> bool {
        self.head.is_some()
    }

    /// Bytes that arrived and were not yet taken by the other side.
    pub(super) fn unconsumed(&self) -> u64 {
        self.incoming.received.saturating_sub(self.incoming.consumed)
    }

    /// Whether the destination has something to take, and is waited for.
    pub(super) fn waits(&self) -> bool {
        !self.udp && self.unconsumed() > 0
    }

    /// Whether the peer may send more on it.
    pub(super) fn may_bring_more(&self) -> bool {
        let has_credit = self.udp || self.incoming.received < self.incoming.limit;
        has_credit && !self.incoming.finished && self.reset.is_none()
    }

    /// Whether what waited for the destination a while ago still does.
    pub(super) fn is_stalled(&self, after: Duration, now: Instant) -> bool {
        self.waits() && now.saturating_duration_since(self.incoming.marked_at) >= after
    }

    /// Growth of the receive window beyond its initial size.
    pub(super) fn growth(&self) -> u64 {
        self.incoming.window.saturating_sub(INITIAL_WINDOW)
    }

    pub(super) fn is_over(&self) -> bool {
        self.reset.is_some() || self.incoming.ended && self.incoming.finished && self.outgoing.is_over()
    }
}
