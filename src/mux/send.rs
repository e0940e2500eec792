use bytes::{BufMut, Bytes};

use super::datagrams::charge;
use super::session::Closing;
use super::{Capacity, Event, Message, Payload, Session, StreamKey, Transmit};
use crate::frame::{Encoding, Frame, StreamId, binary, json};

const CONTROL_MESSAGE: usize = 16 * 1024;

impl Session {
    /// How much may be sent on a stream now.
    pub fn capacity(&mut self, key: StreamKey) -> Capacity {
        let largest = match self.encoding {
            Encoding::V1 => Payload::MAX_V1,
            Encoding::V2 if self.ready.len() > 1 => Payload::MAX_SHARED,
            Encoding::V2 => Payload::MAX_ALONE,
        };
        let queue_max = self.send_queue();
        let Some(stream) = self.streams.get_mut(&key) else { return Capacity::Closed };
        let out = &mut stream.outgoing;
        if stream.reset.is_some() || out.finish || out.finished {
            return Capacity::Closed;
        }
        let credit = usize::try_from(out.limit.saturating_sub(out.accepted)).unwrap_or(usize::MAX);
        if credit == 0 || out.queued >= queue_max {
            out.blocked = true;
            return Capacity::Blocked;
        }
        Capacity::Bytes(credit.min(largest))
    }

    /// What may wait on one stream: less when many share the session's part.
    pub(super) fn send_queue(&self) -> usize {
        let share = self.limits.send_pool.checked_div(self.streams.len()).unwrap_or(usize::MAX);
        self.limits.send_queue.min(share.max(Payload::MAX_SHARED))
    }

    /// Queues a payload that is no longer than [`Session::capacity`] allows.
    pub fn send(&mut self, key: StreamKey, payload: Payload) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let len = payload.len();
        if len == 0 || stream.reset.is_some() || stream.outgoing.finish || stream.outgoing.finished {
            return;
        }
        stream.outgoing.accepted = stream.outgoing.accepted.saturating_add(len as u64);
        stream.outgoing.queued = stream.outgoing.queued.saturating_add(len);
        stream.outgoing.queue.push_back(payload);
        self.schedule(key);
    }

    /// Ends this side's direction once what is queued was sent. In v1 a client cannot, and nothing is sent.
    pub fn finish(&mut self, key: StreamKey) {
        let half = self.can_half_close();
        let Some(stream) = self.streams.get_mut(&key) else { return };
        if stream.outgoing.finished || !half {
            return;
        }
        stream.outgoing.finish = true;
        self.schedule(key);
    }

    pub(super) fn schedule(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(&key)
            && !stream.outgoing.scheduled
        {
            stream.outgoing.scheduled = true;
            self.ready.push_back(key);
        }
    }

    /// The next thing to write, if there is one: control frames first, then the streams in turn.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.is_resuming() && self.closing.is_none() {
            return self.resuming.take().map(|hello| self.whole(&hello));
        }
        while !self.control.is_empty() {
            let mut message = self.control_message();
            if !message.is_empty() {
                self.liveness.moved();
                self.append_padding(&mut message);
                return Some(Transmit::Message(message));
            }
        }
        if self.transport_ping {
            self.transport_ping = false;
            return Some(Transmit::Ping);
        }
        if let Some(Closing(code)) = self.closing.take() {
            return Some(Transmit::Close(code));
        }
        while let Some(key) = self.ready.pop_front() {
            if let Some(mut message) = self.stream_message(key) {
                self.liveness.moved();
                self.append_padding(&mut message);
                return Some(Transmit::Message(message));
            }
        }
        None
    }

    /// A message of one frame.
    fn whole(&mut self, frame: &Frame) -> Transmit {
        let mut message = Message::with_capacity(64);
        match self.encoding {
            Encoding::V1 => json::encode(frame, self.features, &mut message.append().writer()),
            Encoding::V2 => binary::encode(frame, message.append()),
        }
        self.append_padding(&mut message);
        Transmit::Message(message)
    }

    fn control_message(&mut self) -> Message {
        let mut message = Message::with_capacity(64);
        while let Some(frame) = self.control.pop_front() {
            match self.encoding {
                Encoding::V1 => {
                    json::encode(&frame, self.features, &mut message.append().writer());
                    break;
                }
                Encoding::V2 => binary::encode(&frame, message.append()),
            }
            if message.len() >= CONTROL_MESSAGE {
                break;
            }
        }
        if self.control.is_empty() {
            self.control.shrink_to(self.limits.control_frames);
        }
        message
    }

    fn stream_message(&mut self, key: StreamKey) -> Option<Message> {
        let queue_max = self.send_queue();
        let stream = self.streams.get_mut(&key)?;
        let out = &mut stream.outgoing;
        let Some(payload) = out.queue.pop_front() else {
            out.scheduled = false;
            if out.finish && !out.finished && stream.reset.is_none() {
                out.finished = true;
                let id = stream.id;
                let message = self.encode_finish(id);
                self.finished(key);
                return Some(message);
            }
            return None;
        };
        let len = payload.len();
        self.liveness.sent(len);
        if out.deficit < len {
            out.deficit = out.deficit.saturating_add(self.limits.quantum);
        }
        out.deficit = out.deficit.saturating_sub(len);
        out.queued =
            out.queued.saturating_sub(if stream.udp { usize::try_from(charge(len)).unwrap_or(len) } else { len });
        let last = out.queue.is_empty();
        let fin = last && out.finish && self.encoding == Encoding::V2;
        out.finished |= fin;
        out.scheduled = !last || out.finish && !out.finished;
        if last {
            out.deficit = 0;
        }
        if out.scheduled {
            let next = out.queue.front().map_or(0, |next| next.len());
            if out.deficit >= next {
                self.ready.push_front(key);
            } else {
                self.ready.push_back(key);
            }
        }
        if out.blocked && out.queued < queue_max && out.accepted < out.limit {
            out.blocked = false;
            self.events.push_back(Event::Wake(key));
        }
        let id = stream.id;
        let header = binary::data_header(id, len, fin);
        let message = match self.encoding {
            Encoding::V1 => {
                let payload = payload.into_bytes();
                let mut message = Message::with_capacity(len.saturating_mul(4).saturating_div(3).saturating_add(80));
                let frame = Frame::Data { id, payload, fin: false };
                json::encode(&frame, self.features, &mut message.append().writer());
                if let Frame::Data { payload, .. } = frame {
                    self.retransmission.keep(&mut stream.outgoing, payload);
                }
                message
            }
            Encoding::V2 if stream.outgoing.kept.is_none() => payload.into_message(header),
            Encoding::V2 if self.padding.is_empty() => {
                let message = payload.into_shared_message(header);
                self.retransmission.keep(&mut stream.outgoing, message.body().clone());
                message
            }
            Encoding::V2 => {
                self.retransmission.keep(&mut stream.outgoing, Bytes::copy_from_slice(&payload));
                payload.into_message(header)
            }
        };
        if fin {
            self.finished(key);
        }
        Some(message)
    }

    /// This side's end is on its way.
    fn finished(&mut self, key: StreamKey) {
        if self.streams.get(&key).is_some_and(|stream| stream.incoming.ended && !stream.incoming.finished) {
            self.stop(key);
        }
        self.free_id(key);
        self.release(key);
    }

    fn encode_finish(&self, id: StreamId) -> Message {
        let mut message = Message::with_capacity(64);
        match self.encoding {
            Encoding::V1 => {
                let close = Frame::Close { id, half: self.has_half_close() };
                json::encode(&close, self.features, &mut message.append().writer());
            }
            Encoding::V2 => binary::encode(&Frame::Data { id, payload: Bytes::new(), fin: true }, message.append()),
        }
        message
    }
}
