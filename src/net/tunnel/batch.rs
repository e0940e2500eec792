use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use crate::mux::Message;
use crate::net::buffered::CHUNK;
use crate::net::pool;

const MESSAGES: usize = 16;
/// Messages below this length leave together where each would be a piece of its own.
const SMALL: usize = 4096;
/// What they may come to: a TLS record less what goes around it.
const TOGETHER: usize = 16_000;

/// Messages that leave in one write, so that small ones share TLS records and system calls.
#[derive(Debug, Default)]
pub struct Batch {
    messages: VecDeque<(Message, usize)>,
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

    /// Adds a message whose bytes begin at `start`.
    pub(super) fn push(&mut self, message: Message, start: usize) {
        self.bytes += len(&message, start);
        self.messages.push_back((message, start));
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
        let parts = self.messages.iter().flat_map(|(message, start)| parts(message, *start));
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
        while let Some((message, start)) = self.messages.front_mut() {
            let left = len(message, *start);
            if written < left {
                return skip(message, start, written);
            }
            written -= left;
            if let Some((message, _)) = self.messages.pop_front() {
                pool::keep(message.head);
            }
        }
    }

    /// How many messages make up the next piece, and how many bytes they have: a large one, or several small ones.
    fn next(&self) -> (usize, usize) {
        let lens = self.messages.iter().map(|(message, start)| len(message, *start));
        let (mut count, mut bytes) = (0, 0);
        for len in lens {
            if count > 0 && (len >= SMALL || bytes + len > TOGETHER) {
                break;
            }
            (count, bytes) = (count + 1, bytes + len);
            if len >= SMALL {
                break;
            }
        }
        (count, bytes)
    }

    /// Bytes of the next piece.
    pub fn next_len(&self) -> usize {
        self.next().1
    }

    /// Takes the next piece off, at most so many bytes of it, and where they begin in its head.
    pub fn take(&mut self, most: usize) -> (Message, usize) {
        let (count, bytes) = self.next();
        let taken = bytes.min(most);
        let piece = match self.messages.front_mut() {
            Some((message, start)) if count == 1 && taken < bytes => {
                let in_head = (message.head.len() - *start).min(taken);
                let head = message.head.split_to(*start + in_head);
                let body = message.body.split_to(taken - in_head);
                let piece = (Message { head, body }, *start);
                *start = 0;
                self.bytes -= taken;
                piece
            }
            Some(_) if count == 1 => {
                self.bytes -= taken;
                self.messages.pop_front().unwrap_or_default()
            }
            _ => {
                let mut piece = BytesMut::with_capacity(taken);
                let parts = self.messages.iter().take(count).flat_map(|(message, start)| parts(message, *start));
                for part in parts {
                    piece.extend_from_slice(&part[..part.len().min(taken - piece.len())]);
                }
                self.advance(taken);
                (piece.into(), 0)
            }
        };
        self.begun = self.bytes > 0;
        piece
    }
}

/// Bytes of a message that begins at `start` of its head.
fn len(message: &Message, start: usize) -> usize {
    message.head.len() - start + message.body.len()
}

fn parts(message: &Message, start: usize) -> [&[u8]; 2] {
    [&message.head[start..], &message.body]
}

/// Goes on behind some bytes of a message.
fn skip(message: &mut Message, start: &mut usize, bytes: usize) {
    let in_head = (message.head.len() - *start).min(bytes);
    *start += in_head;
    message.body.advance(bytes - in_head);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lens: &[usize]) -> (Batch, Vec<u8>) {
        let (mut batch, mut all) = (Batch::default(), Vec::new());
        for (at, len) in lens.iter().enumerate() {
            let bytes = vec![u8::try_from(at).unwrap(); *len];
            let mut head = BytesMut::zeroed(14);
            let cut = if at % 2 == 0 { bytes.len() } else { bytes.len().min(8) };
            head.extend_from_slice(&bytes[..cut]);
            batch.push(Message { head, body: bytes[cut..].to_vec().into() }, 14);
            all.extend(bytes);
        }
        (batch, all)
    }

    #[test]
    fn small_messages_leave_together_and_large_ones_alone() {
        let (mut batch, all) = batch(&[10, 20, 5000, 30, 4000, 4000, 4000, 4000, 65_000, 7]);
        let (mut got, mut lens) = (Vec::new(), Vec::new());
        while !batch.is_empty() {
            let len = batch.next_len();
            let (piece, start) = batch.take(usize::MAX);
            assert_eq!(super::len(&piece, start), len);
            lens.push(len);
            got.extend_from_slice(&parts(&piece, start).concat());
        }
        assert_eq!(lens, [30, 5000, 12_030, 4000, 65_000, 7]);
        assert!(got == all && batch.bytes == 0 && batch.has_room());
    }

    #[test]
    fn a_piece_is_cut_where_there_is_no_room_for_it() {
        for most in [1, 7, 100, 4096, 20_000] {
            let (mut batch, all) = batch(&[10, 20, 5000, 30, 40]);
            let mut got = Vec::new();
            while !batch.is_empty() {
                let (piece, start) = batch.take(most);
                assert!((1..=most).contains(&len(&piece, start)));
                got.extend_from_slice(&parts(&piece, start).concat());
            }
            assert!(got == all, "{most}");
        }
    }
}
