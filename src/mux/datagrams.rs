use bytes::Bytes;

use super::{Event, Payload, Session, StreamKey};

/// What a frame costs to hold beside its bytes.
const OVERHEAD: u64 = 128;

/// What a waiting frame of datagrams counts for.
pub(super) fn charge(len: usize) -> u64 {
    OVERHEAD.saturating_add(len as u64)
}

impl Session {
    /// Queues one frame of datagram records; the oldest make room for it.
    pub fn send_datagrams(&mut self, key: StreamKey, payload: Payload) {
        let queue_max = self.limits.udp_queue;
        let cost = |len: usize| usize::try_from(charge(len)).unwrap_or(usize::MAX);
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let out = &mut stream.outgoing;
        let len = payload.len();
        if !stream.udp || len == 0 || stream.reset.is_some() || out.finish || out.finished {
            return;
        }
        out.queued = out.queued.saturating_add(cost(len));
        out.queue.push_back(payload);
        while out.queued > queue_max && out.queue.len() > 1 {
            let dropped = out.queue.pop_front().map_or(0, |oldest| cost(oldest.len()));
            out.queued = out.queued.saturating_sub(dropped);
        }
        self.schedule(key);
    }

    /// Takes one frame of datagram records from the peer; the oldest make room for it.
    pub(super) fn handle_datagrams(&mut self, key: StreamKey, payload: &Bytes, fin: bool) {
        let queue_max = if self.is_under_pressure() { 0 } else { self.limits.udp_queue as u64 };
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let incoming = &mut stream.incoming;
        incoming.finished |= fin;
        let mut held = 0;
        if !payload.is_empty() && !incoming.ended {
            held = charge(payload.len());
            incoming.received = incoming.received.saturating_add(held);
            incoming.push_whole(Bytes::copy_from_slice(payload));
        }
        let mut dropped = 0u64;
        while incoming.received.saturating_sub(incoming.consumed) > queue_max && incoming.pieces() > 1 {
            let oldest = incoming.pop().map_or(0, |oldest| charge(oldest.len()));
            incoming.consumed = incoming.consumed.saturating_add(oldest);
            dropped = dropped.saturating_add(oldest);
        }
        self.hold(held);
        self.unhold(dropped);
        self.charge_bytes(usize::try_from(dropped).unwrap_or(usize::MAX));
        self.events.push_back(Event::Wake(key));
        if fin {
            self.free_id(key);
            self.release(key);
        }
    }
}
