//! Bytes on their way to the peer, with room in front for the headers that they get: they are framed where they lie.

use std::ops::Deref;

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::frame::binary::HEADER_LEN;

/// Room for the transport's own frame header, which is that of a WebSocket at most.
const TRANSPORT_ROOM: usize = 14;
/// Room in front of a payload: the transport's, and a frame header.
const HEADROOM: usize = TRANSPORT_ROOM + HEADER_LEN;
/// What goes around a payload at most: headers of HTTP/2 (9 bytes), WebSocket (4) and the frame itself (8).
const HEADERS: usize = 21;
const TLS_RECORD: usize = 16_384;

/// The payload of a frame that is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Payload(BytesMut);

impl Payload {
    /// The longest while one stream is alone: four TLS records hold it with its headers.
    pub(super) const MAX_ALONE: usize = 4 * TLS_RECORD - HEADERS;
    /// The longest while streams take turns: one TLS record holds it with its headers.
    pub(super) const MAX_SHARED: usize = TLS_RECORD - HEADERS;
    /// The longest that encoding v1 carries.
    pub(super) const MAX_V1: usize = 32 * 1024;

    /// Size of a buffer that holds a payload of so many bytes.
    pub const fn buffer_size(len: usize) -> usize {
        HEADROOM.saturating_add(len)
    }

    /// An empty one with a buffer for so many bytes.
    pub fn with_capacity(len: usize) -> Self {
        Self::in_buffer(BytesMut::with_capacity(Self::buffer_size(len)))
    }

    /// An empty one in a buffer, whatever that has.
    pub fn in_buffer(mut buffer: BytesMut) -> Self {
        buffer.clear();
        buffer.put_bytes(0, HEADROOM);
        Self(buffer)
    }

    /// Its buffer, for another use.
    pub fn into_buffer(self) -> BytesMut {
        self.0
    }

    /// Where bytes are appended.
    pub fn append(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// Where bytes are appended until there are `most`.
    pub fn append_to(&mut self, most: usize) -> Limit<&mut BytesMut> {
        let left = most.saturating_sub(self.len());
        (&mut self.0).limit(left)
    }

    /// Its bytes without the room.
    pub(super) fn into_bytes(self) -> Bytes {
        let mut bytes = self.0.freeze();
        bytes.advance(HEADROOM);
        bytes
    }

    /// A message of one frame, whose header is written into the room.
    pub(super) fn into_message(mut self, header: [u8; HEADER_LEN]) -> Message {
        self.write_header(header);
        Message { head: self.0, start: TRANSPORT_ROOM, body: Bytes::new() }
    }

    /// The same with the payload as a body of its own, which others may hold, too.
    pub(super) fn into_shared_message(mut self, header: [u8; HEADER_LEN]) -> Message {
        self.write_header(header);
        let body = self.0.split_off(HEADROOM).freeze();
        Message { head: self.0, start: TRANSPORT_ROOM, body }
    }

    fn write_header(&mut self, header: [u8; HEADER_LEN]) {
        if let Some(room) = self.0.get_mut(TRANSPORT_ROOM..HEADROOM) {
            room.copy_from_slice(&header);
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.get(HEADROOM..).unwrap_or_default()
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        let mut payload = Self::with_capacity(bytes.len());
        payload.append().extend_from_slice(bytes);
        payload
    }
}

/// A message for the transport: frames, with room in front for the transport's header.
#[derive(Debug, Default)]
pub struct Message {
    /// All of it, or what stands before the body.
    head: BytesMut,
    /// Where the message begins in its head.
    start: usize,
    /// A payload that is kept, too, and must not be changed.
    body: Bytes,
}

impl Message {
    /// An empty one with a buffer for so many bytes.
    pub fn with_capacity(len: usize) -> Self {
        let mut head = BytesMut::with_capacity(TRANSPORT_ROOM.saturating_add(len));
        head.put_bytes(0, TRANSPORT_ROOM);
        Self { head, start: TRANSPORT_ROOM, body: Bytes::new() }
    }

    /// The same with bytes behind it that are not copied.
    #[must_use]
    pub fn with_body(self, body: Bytes) -> Self {
        Self { body, ..self }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.head.len().saturating_sub(self.start).saturating_add(self.body.len())
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes, in two parts.
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.head.get(self.start..).unwrap_or_default(), &self.body]
    }

    /// All of them in one piece.
    pub fn concat(self) -> Bytes {
        let mut whole = self.head;
        whole.extend_from_slice(&self.body);
        whole.advance(self.start.min(whole.len()));
        whole.freeze()
    }

    /// The body that is not copied.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// Where frames are appended, in front of a body.
    pub(super) fn append(&mut self) -> &mut BytesMut {
        &mut self.head
    }

    /// Its bytes, to be changed: a body becomes a part of the head first.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.head.extend_from_slice(&std::mem::take(&mut self.body));
        self.head.get_mut(self.start..).unwrap_or_default()
    }

    /// Puts a header in front, into the room if that is large enough.
    pub fn prepend(&mut self, header: &[u8]) {
        if let Some(start) = self.start.checked_sub(header.len())
            && let Some(room) = self.head.get_mut(start..self.start)
        {
            room.copy_from_slice(header);
            self.start = start;
            return;
        }
        let mut head = BytesMut::from(header);
        head.extend_from_slice(self.head.get(self.start..).unwrap_or_default());
        (self.head, self.start) = (head, 0);
    }

    /// Goes on behind so many bytes.
    pub fn advance(&mut self, bytes: usize) {
        let in_head = self.in_head(bytes);
        self.start = self.start.saturating_add(in_head);
        self.body.advance(bytes.saturating_sub(in_head));
    }

    /// Takes so many bytes off.
    #[must_use]
    pub fn split_to(&mut self, bytes: usize) -> Self {
        let in_head = self.in_head(bytes);
        let head = self.head.split_to(self.start.saturating_add(in_head));
        let body = self.body.split_to(bytes.saturating_sub(in_head));
        Self { head, start: std::mem::take(&mut self.start), body }
    }

    /// How many of its first bytes are in its head.
    fn in_head(&self, bytes: usize) -> usize {
        self.head.len().saturating_sub(self.start).min(bytes)
    }

    /// Its buffer, for another use.
    pub fn into_buffer(self) -> BytesMut {
        self.head
    }
}

impl From<&[u8]> for Message {
    fn from(bytes: &[u8]) -> Self {
        let mut message = Self::with_capacity(bytes.len());
        message.append().extend_from_slice(bytes);
        message
    }
}

impl From<Bytes> for Message {
    fn from(body: Bytes) -> Self {
        Self { head: BytesMut::new(), start: 0, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_written_where_the_payload_lies() {
        let mut payload = Payload::with_capacity(5);
        assert!(payload.is_empty());
        payload.append_to(3).put_slice(b"abc");
        payload.append().put_slice(b"de");
        let place = payload.as_ptr();
        let mut message = payload.into_message([7; HEADER_LEN]);
        message.prepend(&[1; TRANSPORT_ROOM]);
        assert_eq!(message.parts(), [&[&[1; TRANSPORT_ROOM][..], &[7; HEADER_LEN], b"abcde"].concat()[..], b""]);
        assert_eq!(message.parts()[0][HEADROOM..].as_ptr(), place);
        let mut shared = Payload::from(&b"abcde"[..]).into_shared_message([7; HEADER_LEN]);
        let kept = shared.body().clone();
        assert_eq!(
            (shared.len(), &kept[..], kept.as_ptr()),
            (HEADER_LEN + 5, &b"abcde"[..], shared.parts()[1].as_ptr())
        );
        shared.bytes_mut()[HEADER_LEN] = b'x';
        assert_eq!((&kept[..], &shared.concat()[HEADER_LEN..]), (&b"abcde"[..], &b"xbcde"[..]), "what is kept stays");
    }

    #[test]
    fn a_message_is_cut_and_gone_on_with_across_its_parts() {
        let whole = || Message::from(&b"head"[..]).with_body(Bytes::from_static(b"body"));
        for cut in 0..=8 {
            let mut rest = whole();
            let first = rest.split_to(cut);
            assert_eq!([first.concat(), rest.concat()].concat(), b"headbody", "{cut}");
            let mut rest = whole();
            rest.advance(cut);
            assert_eq!(rest.concat(), b"headbody"[cut..], "{cut}");
        }
        let mut bare = Message::from(Bytes::from_static(b"body"));
        bare.prepend(b"head");
        assert_eq!(bare.concat(), &b"headbody"[..]);
    }
}
