use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncWrite;

use crate::net::buffered::CHUNK;
use crate::net::pool;

const MESSAGES: usize = 16;

/// Messages that leave in one write, so that small ones share TLS records and system calls.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: VecDeque<(BytesMut, usize)>,
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
    pub(super) fn push(&mut self, message: BytesMut, start: usize) {
        self.bytes += message.len() - start;
        self.messages.push_back((message, start));
    }

    /// Writes some of it, once the socket has passed on what it took before.
    pub(super) fn poll_write<S>(&mut self, mut socket: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncWrite,
    {
        self.begun = true;
        ready!(socket.as_mut().poll_flush(cx))?;
        let mut slices = [IoSlice::new(&[]); MESSAGES];
        let count = self.messages.len().min(MESSAGES);
        for (slice, (message, start)) in slices.iter_mut().zip(&self.messages) {
            *slice = IoSlice::new(&message[*start..]);
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
            let left = message.len() - *start;
            if written < left {
                *start += written;
                return;
            }
            written -= left;
            if let Some((message, _)) = self.messages.pop_front()
                && message.capacity() >= pool::SIZE
            {
                pool::give(message);
            }
        }
    }
}
