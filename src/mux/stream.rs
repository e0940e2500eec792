use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::INITIAL_WINDOW;
use crate::frame::{StreamCode, StreamId};

/// What arrives on a stream, and how much more may.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) queue: VecDeque<Bytes>,
    pub(super) received: u64,
    pub(super) consumed: u64,
    pub(super) limit: u64,
    pub(super) window: u64,
    pub(super) granted_at: Option<Instant>,
    pub(super) finished: bool,
    /// The owner has seen the end.
    pub(super) ended: bool,
    pub(super) progress: Instant,
}

/// What leaves on a stream, and how much more may.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one direction")]
pub(super) struct Outgoing {
    pub(super) queue: VecDeque<BytesMut>,
    pub(super) queued: usize,
    pub(super) accepted: u64,
    pub(super) limit: u64,
    pub(super) deficit: usize,
    pub(super) scheduled: bool,
    pub(super) blocked: bool,
    pub(super) finish: bool,
    pub(super) finished: bool,
}

/// One logical stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Bytes of a v1 target that is not complete yet.
    pub(super) head: Option<BytesMut>,
    /// It carries datagrams: no credit, the oldest are dropped.
    pub(super) udp: bool,
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
            udp: false,
            incoming: Incoming {
                queue: VecDeque::new(),
                received: 0,
                consumed: 0,
                limit,
                window: INITIAL_WINDOW,
                granted_at: None,
                finished: false,
                ended: false,
                progress: now,
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
            },
            reset: None,
        }
    }

    /// Bytes that arrived and were not yet taken by the other side.
    pub(super) fn unconsumed(&self) -> u64 {
        self.incoming.received.saturating_sub(self.incoming.consumed)
    }

    /// Growth of the receive window beyond its initial size.
    pub(super) fn growth(&self) -> u64 {
        self.incoming.window.saturating_sub(INITIAL_WINDOW)
    }

    pub(super) fn is_over(&self) -> bool {
        self.reset.is_some() || self.incoming.ended && self.outgoing.finished
    }
}
