use super::{Event, Role, Session, SessionError, StreamKey};
use crate::frame::{Encoding, Feature, Frame, StreamCode, StreamId};

impl Session {
    pub(super) fn handle_reset(&mut self, id: StreamId, code: StreamCode) -> Result<(), SessionError> {
        let Some(key) = self.key_of(id)? else { return Ok(()) };
        self.ids.remove(&id);
        self.cut_off(key, code);
        Ok(())
    }

    /// The peer has no such stream any more: what it had sent up to its own end is delivered.
    pub(super) fn cut_off(&mut self, key: StreamKey, code: StreamCode) {
        if self.streams.get(&key).is_some_and(|stream| stream.incoming.finished && !stream.incoming.ended) {
            self.close_outgoing(key);
            return;
        }
        self.mark_reset(key, code);
        self.events.push_back(Event::Wake(key));
        if self.streams.get(&key).is_some_and(|stream| stream.is_unseen() || stream.incoming.ended) {
            self.release(key);
        }
    }

    /// The peer takes no more; what it sent before its own end is still delivered.
    fn close_outgoing(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        stream.outgoing.finish = true;
        stream.outgoing.finished = true;
        stream.outgoing.queue.clear();
        stream.outgoing.queued = 0;
        self.retransmission.give_up(&mut stream.outgoing);
        self.events.push_back(Event::Wake(key));
    }

    /// `stream_close`: what is queued is delivered, then both directions are over; the id is free at once.
    pub(super) fn handle_close(&mut self, id: StreamId) {
        let Some(key) = self.ids.remove(&id) else { return };
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.head.is_some() {
            self.mark_reset(key, StreamCode::Cancelled);
            self.release(key);
            return;
        }
        let forgotten = stream.incoming.ended;
        stream.incoming.finished = true;
        self.close_outgoing(key);
        if forgotten {
            self.release(key);
        }
    }

    /// Ends both directions of a stream at once.
    pub fn reset(&mut self, key: StreamKey, code: StreamCode) {
        let Some(stream) = self.streams.get(&key) else { return };
        if stream.reset.is_none() {
            let id = stream.id;
            let may_be_lost = self.is_resuming();
            let known_to_peer = self.encoding == Encoding::V2 || self.ids.get(&id) == Some(&key);
            let is_open = known_to_peer && !(stream.outgoing.finished && stream.incoming.finished);
            if is_open || may_be_lost {
                self.refuse(id, code);
            }
            self.mark_reset(key, code);
            self.events.push_back(Event::Wake(key));
        }
        self.release(key);
    }

    /// Tells the peer that a stream is reset.
    pub(super) fn refuse(&mut self, id: StreamId, code: StreamCode) {
        if self.encoding == Encoding::V1 && self.role == Role::Gateway && self.features.has(Feature::Error) {
            self.control.push_back(Frame::StreamError { id, code, message: code.as_str().to_owned() });
        }
        self.control.push_back(Frame::Reset { id, code });
    }

    pub(super) fn mark_reset(&mut self, key: StreamKey, code: StreamCode) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.reset = Some(code);
            stream.outgoing.queue.clear();
            stream.outgoing.queued = 0;
            self.retransmission.give_up(&mut stream.outgoing);
        }
    }

    /// The owner of a stream is done with it. What it queued before [`Session::finish`] is still sent, then a RESET if the
    /// peer has not finished; without a finish the stream is cancelled.
    pub fn forget(&mut self, key: StreamKey) {
        let half = self.has_half_close();
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if !stream.outgoing.finish || stream.reset.is_some() {
            return self.reset(key, StreamCode::Cancelled);
        }
        stream.incoming.ended = true;
        stream.incoming.finished |= !half;
        let stop = stream.outgoing.finished && !stream.incoming.finished;
        let unconsumed = stream.unconsumed();
        stream.incoming.consumed = stream.incoming.received;
        stream.incoming.clear();
        self.unhold(unconsumed);
        self.tell_end(key);
        if stop {
            self.stop(key);
        }
        self.release(key);
    }

    /// Tells a peer that still sends, behind this side's own end, that nobody listens.
    pub(super) fn stop(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        stream.incoming.finished = true;
        stream.stopped = true;
        let id = stream.id;
        self.refuse(id, StreamCode::Cancelled);
        self.free_id(key);
    }

    /// A v1 id is free once both sides have closed, whatever is still to be delivered.
    pub(super) fn free_id(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(&key) else { return };
        if stream.incoming.finished && stream.outgoing.is_over() && self.ids.get(&stream.id) == Some(&key) {
            self.ids.remove(&stream.id);
        }
    }

    /// Whether a stream was reset or its session is over.
    pub fn is_gone(&self, key: StreamKey) -> bool {
        self.streams.get(&key).is_none_or(|stream| stream.reset.is_some())
    }

    /// Drops a stream that is over in both directions.
    pub(super) fn release(&mut self, key: StreamKey) {
        let over = match self.streams.get(&key) {
            Some(stream) if !self.has_half_close() && self.role == Role::Gateway => {
                stream.is_over() || stream.outgoing.finished && self.is_closed_here(key)
            }
            Some(stream) => stream.is_over(),
            None => false,
        };
        if over && self.is_resuming() {
            self.tell_gone(key);
        } else if over {
            self.tell_last(key);
        }
        if over && let Some(stream) = self.streams.remove(&key) {
            let is_ended = stream.incoming.ended;
            if self.ids.get(&stream.id) == Some(&key) {
                self.ids.remove(&stream.id);
            }
            self.release_budget(stream);
            if !is_ended {
                self.events.push_back(Event::Wake(key));
            }
        }
    }

    /// A v1 gateway's close ends both directions: what the client still sends is ignored.
    fn is_closed_here(&self, key: StreamKey) -> bool {
        self.streams.get(&key).is_some_and(|stream| stream.outgoing.finish)
    }
}
