use std::time::Instant;

use super::stream::Stream;
use super::{Event, Session, StreamKey};
use crate::frame::{Frame, StreamId};

impl Session {
    /// Whether as much waits for the other side as the pools are meant for.
    pub(super) fn is_under_pressure(&self) -> bool {
        self.buffered >= self.limits.window_pool || self.memory.is_full()
    }

    pub(super) fn handle_window(&mut self, id: StreamId, consumed: u64, limit: u64) {
        let Ok(Some(key)) = self.key_of(id) else { return };
        let queue_max = self.send_queue();
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let out = &mut stream.outgoing;
        out.limit = out.limit.max(limit);
        if out.blocked && out.accepted < out.limit && out.queued < queue_max {
            out.blocked = false;
            self.events.push_back(Event::Wake(key));
        }
        self.retransmission.taken(out, consumed);
        if out.end_taken {
            self.release(key);
        }
    }

    /// The other side took `len` bytes: credit may be granted for as many.
    pub fn consumed(&mut self, key: StreamKey, len: usize, now: Instant) {
        let has_credit = self.has_credit();
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.udp {
            return;
        }
        let incoming = &mut stream.incoming;
        incoming.consumed = incoming.consumed.saturating_add(len as u64);
        incoming.progress = now;
        if incoming.consumed >= incoming.marked {
            incoming.mark(now);
        }
        let wants_credit = incoming.limit.saturating_sub(incoming.consumed) <= incoming.window.div_ceil(2);
        let takes_credit = has_credit && !incoming.finished && stream.reset.is_none();
        let was_full = self.is_full();
        self.unhold(len as u64);
        if was_full && !self.is_full() {
            self.heard(now);
        }
        if wants_credit && takes_credit {
            self.grant(key, now);
        }
        self.tell_end(key);
    }

    /// Grants a whole window, a larger one if half of the last was used up within a round trip.
    fn grant(&mut self, key: StreamKey, now: Instant) {
        let rtt = self.rtt.get();
        let under_pressure = self.is_under_pressure();
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let incoming = &mut stream.incoming;
        let soon = rtt.saturating_add(rtt.div_f64(4.0));
        let quick = incoming.granted_at.is_some_and(|at| now.saturating_duration_since(at) <= soon);
        if quick && !under_pressure {
            let wanted = incoming.window.min(self.limits.window.saturating_sub(incoming.window));
            let growth = self.memory.take(wanted.min(self.pool_left.div_euclid(2)));
            incoming.window = incoming.window.saturating_add(growth);
            self.pool_left = self.pool_left.saturating_sub(growth);
        }
        incoming.granted_at = Some(now);
        incoming.limit = incoming.limit.max(incoming.consumed.saturating_add(incoming.window));
        let frame = Frame::Window { id: stream.id, consumed: incoming.consumed, limit: incoming.limit };
        self.control.push_back(frame);
        self.measure(now);
    }

    /// Gives back what a stream that is over had of the pools.
    pub(super) fn release_budget(&mut self, mut stream: Stream) {
        self.retransmission.give_up(&mut stream.outgoing);
        let growth = stream.growth();
        self.pool_left = self.pool_left.saturating_add(growth);
        self.memory.give_back(growth);
        self.unhold(stream.unconsumed());
    }

    pub(super) fn hold(&mut self, bytes: u64) {
        self.buffered = self.buffered.saturating_add(bytes);
        self.memory.hold(bytes);
    }

    pub(super) fn unhold(&mut self, bytes: u64) {
        self.buffered = self.buffered.saturating_sub(bytes);
        self.memory.release(bytes);
    }
}
