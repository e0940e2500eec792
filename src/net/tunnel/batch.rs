use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::mux::Message;
use crate::net::buffer_pool::BufferPool;
use crate::net::buffered::CHUNK;

const MESSAGES: usize = 16;
/// What leaves in one piece: a DATA frame of HTTP/2 as large as servers like ours take.
const PIECE: usize = 64 * 1024;

/// Messages that leave in one write, so that small ones share TLS records and system calls.
#[derive(Debug, Default)]
pub struct Batch {
    messages: VecDeque<Message>,
    bytes: usize,
    begun: bool,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether another message may join: none does once the socket has taken some, so that little waits here.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < CHUNK && self.messages.len() < MESSAGES && !self.begun
    }

    pub(super) fn push(&mut self, message: Message) {
        self.bytes += message.len();
        self.messages.push_back(message);
    }

    /// Writes some of it, once the socket has passed on what it took before.
    pub(super) fn poll_write<S>(&mut self, mut socket: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite,
    {
        self.begun = true;
        ready!(socket.as_mut().poll_flush(cx))?;
        let mut slices = [IoSlice::new(&[]); 2 * MESSAGES];
        let mut count = 0;
        let parts = self.messages.iter().flat_map(Message::parts);
        for (slice, part) in slices.iter_mut().zip(parts.filter(|part| !part.is_empty())) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        let written = ready!(socket.poll_write_vectored(cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.begun = self.bytes > 0;
        while let Some(message) = self.messages.front_mut() {
            let left = message.len();
            if written < left {
                return message.advance(written);
            }
            written -= left;
            if let Some(message) = self.messages.pop_front() {
                BufferPool::give_if_large(message.into_buffer());
            }
        }
    }

    /// Bytes of the next piece: as many whole messages as it holds, or one that is larger.
    pub fn next_len(&self) -> usize {
        let lens = self.messages.iter().map(Message::len);
        let fits = |bytes: &mut usize, len: usize| {
            let fits = *bytes == 0 || *bytes + len <= PIECE;
            *bytes += if fits { len } else { 0 };
            fits.then_some(*bytes)
        };
        lens.scan(0, fits).last().unwrap_or(0)
    }

    /// Takes so many bytes off; the last message is cut where they end.
    pub fn take(&mut self, bytes: usize) -> Piece {
        let mut piece = Piece { messages: VecDeque::new(), bytes };
        let mut left = bytes;
        while left > 0
            && let Some(mut message) = self.messages.pop_front()
        {
            let whole = message.len();
            if left < whole {
                let first = message.split_to(left);
                self.messages.push_front(message);
                message = first;
            }
            left -= whole.min(left);
            piece.messages.push_back(message);
        }
        self.bytes -= bytes - left;
        self.begun = self.bytes > 0;
        piece.bytes -= left;
        piece
    }
}

/// Messages, or a part of one, that leave in one piece; their buffers return to their pool as they do.
#[derive(Debug, Default)]
pub struct Piece {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl From<Bytes> for Piece {
    fn from(body: Bytes) -> Self {
        let bytes = body.len();
        Self { messages: VecDeque::from([Message::from(body)]), bytes }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        let mut parts = self.messages.iter().flat_map(Message::parts);
        parts.find(|part| !part.is_empty()).unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.messages.iter().flat_map(Message::parts);
        let parts = parts.filter(|part| !part.is_empty());
        slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(message) = self.messages.front_mut() {
            let left = message.len();
            if bytes < left {
                return message.advance(bytes);
            }
            bytes -= left;
            if let Some(message) = self.messages.pop_front() {
                BufferPool::give_if_large(message.into_buffer());
            }
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        for message in self.messages.drain(..) {
            BufferPool::give_if_large(message.into_buffer());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lens: &[usize]) -> (Batch, Vec<u8>) {
        let (mut batch, mut all) = (Batch::default(), Vec::new());
        for (at, len) in lens.iter().enumerate() {
            let bytes = vec![u8::try_from(at).unwrap(); *len];
            let cut = if at % 2 == 0 { bytes.len() } else { bytes.len().min(8) };
            batch.push(Message::from(&bytes[..cut]).with_body(Bytes::copy_from_slice(&bytes[cut..])));
            all.extend(bytes);
        }
        (batch, all)
    }

    fn bytes_of(mut piece: Piece) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let count = piece.chunks_vectored(&mut slices);
        let whole: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        assert!(piece.copy_to_bytes(piece.remaining()) == whole && !piece.has_remaining());
        whole
    }

    #[test]
    fn messages_leave_together_up_to_a_pieces_size() {
        let (mut batch, all) = batch(&[10, 20, 5000, 16_000, 16_000, 16_000, 16_000, 65_536, 70_000, 7]);
        let (mut got, mut lens) = (Vec::new(), Vec::new());
        while !batch.is_empty() {
            lens.push(batch.next_len());
            let piece = batch.take(batch.next_len());
            assert_eq!(Some(&piece.remaining()), lens.last());
            got.extend(bytes_of(piece));
        }
        assert_eq!(lens, [53_030, 16_000, 65_536, 70_000, 7]);
        assert!(got == all && batch.bytes == 0 && batch.has_room());
    }

    #[test]
    fn a_piece_is_cut_where_there_is_no_room_for_it() {
        for most in [1, 7, 100, 4096, 20_000] {
            let (mut batch, all) = batch(&[10, 20, 5000, 30, 40]);
            let mut got = Vec::new();
            while !batch.is_empty() {
                let piece = batch.take(batch.next_len().min(most));
                assert!((1..=most).contains(&piece.remaining()));
                got.extend(bytes_of(piece));
            }
            assert!(got == all, "{most}");
        }
    }
}
