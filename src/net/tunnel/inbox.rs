use bytes::{Bytes, BytesMut};

use super::driver::{Ended, Framing, Transport};
use crate::frame::binary;
use crate::mux::SessionError;
use crate::net::buffer_pool::BufferPool;
use crate::net::buffered::CHUNK;
use crate::net::websocket::{Incoming, Reader};

/// What is read while it is not known how much is to come.
const FIRST_READ: usize = 16 * 1024;
/// Pieces below this length are small.
const SMALL: usize = 64;

/// What came of the peer and was not handed over yet: less than a message, and one piece.
#[derive(Debug)]
pub struct Inbox {
    format: Format,
    bytes: BytesMut,
    /// The bytes are in a buffer of the pool.
    pooled: bool,
    /// A piece behind them that is used where it lies.
    piece: Bytes,
    /// How many more bytes make a message, at least.
    missing: usize,
    /// Length of a small piece that came.
    small: Option<usize>,
}

#[derive(Debug)]
enum Format {
    WebSocket(Reader),
    /// Frames of encoding v2, none longer than this.
    Frames(usize),
}

impl Inbox {
    pub(super) fn new(transport: &Transport, read: Bytes) -> Self {
        let max = transport.message_max.min(transport.hello_max);
        let format = match transport.framing {
            Framing::WebSocket(side) => Format::WebSocket(Reader::new(side, max, transport.fragments_max)),
            Framing::Frames => Format::Frames(max),
        };
        Self {
            format,
            missing: usize::from(read.is_empty()),
            bytes: BytesMut::from(read),
            pooled: false,
            piece: Bytes::new(),
            small: None,
        }
    }

    /// Whether there may be a message without another read.
    pub(super) fn is_ripe(&self) -> bool {
        self.missing == 0
    }

    /// Takes messages of at most `max` bytes from now on.
    pub(super) fn allow(&mut self, max: usize) {
        match &mut self.format {
            Format::WebSocket(reader) => reader.allow(max),
            Format::Frames(allowed) => *allowed = max,
        }
    }

    /// What it means that nothing comes any more.
    pub(super) fn end(&self) -> Ended {
        match self.format {
            Format::Frames(_) if self.bytes.is_empty() => Ended::ByPeer,
            Format::WebSocket(_) | Format::Frames(_) => Ended::Gone,
        }
    }

    /// Drops all there is and wants more, about so much.
    pub(super) fn discard(&mut self, most: usize) {
        self.bytes.clear();
        self.piece.clear();
        self.missing = most.min(CHUNK);
    }

    /// Gives an empty buffer back to the pool while nothing comes.
    pub(super) fn rest(&mut self) {
        if self.bytes.is_empty() && self.pooled {
            BufferPool::give(std::mem::take(&mut self.bytes));
            self.pooled = false;
        }
    }

    /// Length of the last piece, once, if it was small.
    pub(super) fn take_small(&mut self) -> Option<usize> {
        self.small.take()
    }

    /// How many fragments that did not end their message were small, since this was asked last.
    pub(super) fn take_fragments(&mut self) -> usize {
        match &mut self.format {
            Format::WebSocket(reader) => reader.take_small(),
            Format::Frames(_) => 0,
        }
    }

    /// Where to read to, and how much at most.
    pub fn space(&mut self) -> (&mut BytesMut, usize) {
        let wanted = self.missing.max(FIRST_READ);
        self.make_room(wanted);
        (&mut self.bytes, wanted)
    }

    /// So many bytes were read there.
    pub fn came(&mut self, read: usize) {
        self.missing = self.missing.saturating_sub(read);
    }

    /// A piece came that has a buffer of its own.
    pub fn put(&mut self, piece: Bytes) {
        self.small = Some(piece.len()).filter(|len| *len < SMALL);
        match self.format {
            Format::WebSocket(_) => {
                self.make_room(piece.len());
                self.bytes.extend_from_slice(&piece);
                self.missing = self.missing.saturating_sub(piece.len());
            }
            Format::Frames(_) => {
                self.piece = piece;
                self.missing = 0;
            }
        }
    }

    /// Goes on in another buffer if this one is used up.
    fn make_room(&mut self, wanted: usize) {
        if self.bytes.capacity() - self.bytes.len() >= wanted {
            return;
        }
        let mut next = BufferPool::take();
        next.extend_from_slice(&self.bytes);
        next.reserve(wanted);
        let used = std::mem::replace(&mut self.bytes, next);
        if self.pooled {
            BufferPool::give(used);
        }
        self.pooled = true;
    }

    /// The next message; `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, Ended> {
        let missing = match &mut self.format {
            Format::WebSocket(reader) => match reader.next(&mut self.bytes) {
                Ok(incoming) => return Ok(Some(incoming)),
                Err(Ok(missing)) => missing,
                Err(Err(violation)) => return Err(violation.into()),
            },
            Format::Frames(max) => {
                let max = *max;
                match self.next_frames(max).map_err(SessionError::from)? {
                    Ok(frames) => return Ok(Some(Incoming::Binary(frames))),
                    Err(missing) => missing,
                }
            }
        };
        self.missing = missing;
        Ok(None)
    }

    /// Whole frames, where they lie if they are whole there; `Err` with how many bytes are missing.
    fn next_frames(&mut self, max: usize) -> Result<Result<Bytes, usize>, crate::frame::DecodeError> {
        if self.bytes.is_empty() {
            let (whole, missing) = binary::whole(&self.piece, max)?;
            if whole > 0 {
                return Ok(Ok(self.piece.split_to(whole)));
            }
            if self.piece.is_empty() {
                return Ok(Err(missing));
            }
            let begun = std::mem::take(&mut self.piece);
            self.make_room(begun.len() + missing);
            self.bytes.extend_from_slice(&begun);
            return Ok(Err(missing));
        }
        loop {
            let (whole, missing) = binary::whole(&self.bytes, max)?;
            if whole > 0 {
                return Ok(Ok(self.bytes.split_to(whole).freeze()));
            }
            if self.piece.is_empty() {
                return Ok(Err(missing));
            }
            let more = self.piece.split_to(missing.min(self.piece.len()));
            self.make_room(missing);
            self.bytes.extend_from_slice(&more);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::frame::{Encoding, Frame, StreamId};

    fn inbox(max: usize) -> Inbox {
        let transport = Transport {
            framing: Framing::Frames,
            encoding: Encoding::V2,
            message_max: max,
            hello_max: max,
            fragments_max: 1,
            close_timeout: Duration::ZERO,
        };
        Inbox::new(&transport, Bytes::new())
    }

    fn frames(lens: &[usize]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for len in lens {
            let payload = Bytes::from(vec![7; *len]);
            binary::encode(&Frame::Data { id: StreamId(1), payload, fin: false }, &mut bytes);
        }
        bytes
    }

    fn drained(inbox: &mut Inbox) -> Vec<u8> {
        let mut got = Vec::new();
        while let Some(Incoming::Binary(mut bytes)) = inbox.next().unwrap() {
            got.extend_from_slice(&bytes);
            while binary::decode(&mut bytes).unwrap().is_some() {}
        }
        got
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let all = frames(&[0, 1, 500, 65_528, 3, 20_000, 0]).freeze();
        for size in [1, 3, 8, 9, 1000, 16_384, 65_536, all.len()] {
            let (mut inbox, mut got) = (inbox(binary::MAX_MESSAGE), Vec::new());
            let mut rest = all.clone();
            while !rest.is_empty() {
                assert!(!inbox.is_ripe());
                inbox.put(rest.split_to(size.min(rest.len())));
                got.extend(drained(&mut inbox));
                assert!(inbox.bytes.len() <= binary::MAX_MESSAGE && inbox.piece.is_empty());
            }
            assert!(got == all, "{size}");
            assert!(matches!(inbox.end(), Ended::ByPeer));
        }
    }

    #[test]
    fn whole_frames_are_not_copied() {
        let piece = frames(&[100, 200]).freeze();
        let mut inbox = inbox(binary::MAX_MESSAGE);
        inbox.put(piece.clone());
        let Some(Incoming::Binary(message)) = inbox.next().unwrap() else { panic!("whole frames are there") };
        assert_eq!(message.as_ptr(), piece.as_ptr());
        assert!(inbox.next().unwrap().is_none() && inbox.bytes.capacity() == 0);
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_at_its_header() {
        let mut inbox = inbox(1000);
        inbox.put(frames(&[993]).split_to(8).freeze());
        assert!(matches!(inbox.next(), Err(Ended::Session(SessionError::Decode(_)))));
    }
}
