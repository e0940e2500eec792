use bytes::{BufMut, Bytes, BytesMut};

use super::datagrams::charge;
use super::pad::empty_message;
use super::session::{CONTROL_BACKLOG, Closing};
use super::{Capacity, Event, HEADROOM, Message, Session, StreamKey, TRANSPORT_ROOM, Transmit};
use crate::frame::{Encoding, Frame, StreamId, binary, json};

/// What goes around a payload at most: headers of HTTP/2 (9 bytes), WebSocket (4) and the frame itself (8).
const HEADERS: usize = 21;
/// Four TLS records hold it with its headers.
const LONE_FRAME: usize = 4 * 16_384 - HEADERS;
pub(super) const SHARED_FRAME: usize = 16_384 - HEADERS;
const V1_FRAME: usize = 32 * 1024;
const CONTROL_MESSAGE: usize = 16 * 1024;

impl Session {
    /// How much may be sent on a stream now.
    pub fn capacity(&mut self, key: StreamKey) -> Capacity {
        let largest = match self.encoding {
            Encoding::V1 => V1_FRAME,
            Encoding::V2 if self.ready.len() > 1 => SHARED_FRAME,
            Encoding::V2 => LONE_FRAME,
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
        self.limits.send_queue.min(share.max(SHARED_FRAME))
    }

    /// Queues a payload that lies behind [`HEADROOM`] free bytes and is no longer than [`Session::capacity`] allows.
    pub fn send(&mut self, key: StreamKey, payload: BytesMut) {
        let Some(stream) = self.streams.get_mut(&key) else { return };
        let len = payload.len().saturating_sub(HEADROOM);
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
            if message.len() > TRANSPORT_ROOM {
                self.pulse.moved();
                self.append_padding(&mut message);
                return Some(Transmit::Message(message.into()));
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
                self.pulse.moved();
                self.append_padding(&mut message.head);
                return Some(Transmit::Message(message));
            }
        }
        None
    }

    /// A message of one frame.
    fn whole(&mut self, frame: &Frame) -> Transmit {
        let mut message = empty_message(64);
        match self.encoding {
            Encoding::V1 => json::encode(frame, self.features, &mut (&mut message).writer()),
            Encoding::V2 => binary::encode(frame, &mut message),
        }
        self.append_padding(&mut message);
        Transmit::Message(message.into())
    }

    fn control_message(&mut self) -> BytesMut {
        let mut message = empty_message(64);
        while let Some(frame) = self.control.pop_front() {
            match self.encoding {
                Encoding::V1 => {
                    json::encode(&frame, self.features, &mut (&mut message).writer());
                    break;
                }
                Encoding::V2 => binary::encode(&frame, &mut message),
            }
            if message.len() >= CONTROL_MESSAGE {
                break;
            }
        }
        if self.control.is_empty() {
            self.control.shrink_to(CONTROL_BACKLOG);
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
                return Some(message.into());
            }
            return None;
        };
        let len = payload.len().saturating_sub(HEADROOM);
        self.pulse.sent(len);
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
            let next = out.queue.front().map_or(0, |next| next.len().saturating_sub(HEADROOM));
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
        let (mut message, body) = match self.encoding {
            Encoding::V1 => {
                let payload = payload.freeze().slice(HEADROOM..);
                let mut message = empty_message(len.saturating_mul(4).saturating_div(3).saturating_add(80));
                let frame = Frame::Data { id, payload, fin: false };
                json::encode(&frame, self.features, &mut (&mut message).writer());
                if let Frame::Data { payload, .. } = frame {
                    self.keeper.keep(&mut stream.outgoing, payload);
                }
                (message, Bytes::new())
            }
            Encoding::V2 if stream.outgoing.kept.is_none() => (payload, Bytes::new()),
            Encoding::V2 if self.padding.is_empty() => {
                let mut message = payload;
                let body = message.split_off(HEADROOM).freeze();
                self.keeper.keep(&mut stream.outgoing, body.clone());
                (message, body)
            }
            Encoding::V2 => {
                let kept = payload.get(HEADROOM..).map(Bytes::copy_from_slice).unwrap_or_default();
                self.keeper.keep(&mut stream.outgoing, kept);
                (payload, Bytes::new())
            }
        };
        if self.encoding == Encoding::V2
            && let Some(header) = message.get_mut(TRANSPORT_ROOM..HEADROOM)
        {
            header.copy_from_slice(&binary::data_header(id, len, fin));
        }
        if fin {
            self.finished(key);
        }
        Some(Message { head: message, body })
    }

    /// This side's end is on its way.
    fn finished(&mut self, key: StreamKey) {
        if self.streams.get(&key).is_some_and(|stream| stream.incoming.ended && !stream.incoming.finished) {
            self.stop(key);
        }
        self.free_id(key);
        self.release(key);
    }

    fn encode_finish(&self, id: StreamId) -> BytesMut {
        let mut message = empty_message(64);
        match self.encoding {
            Encoding::V1 => {
                let close = Frame::Close { id, half: self.has_half_close() };
                json::encode(&close, self.features, &mut (&mut message).writer());
            }
            Encoding::V2 => binary::encode(&Frame::Data { id, payload: Bytes::new(), fin: true }, &mut message),
        }
        message
    }
}
