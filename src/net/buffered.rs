//! A stream with large pooled buffers: few system calls while bytes flow, no memory while they do not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::net::buffer_pool::BufferPool;

/// Bytes that are moved at once.
pub const CHUNK: usize = 64 * 1024;
/// What encryption adds to a chunk is read and written with it, so that one call takes it all.
const SIZE: usize = CHUNK + 1024;

/// A buffer of the pool, and how much of its beginning is done with.
#[derive(Debug)]
struct Chunk {
    bytes: BytesMut,
    start: usize,
}

impl Chunk {
    fn take() -> Self {
        Self { bytes: BufferPool::take(), start: 0 }
    }

    fn give_back(self) {
        BufferPool::give(self.bytes);
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Reads ahead and, if asked to, gathers writes until a flush.
#[derive(Debug)]
pub struct Buffered<S> {
    inner: S,
    ahead: Option<Chunk>,
    gathered: Option<Chunk>,
    gather: bool,
}

impl<S> Buffered<S> {
    /// Reads ahead only.
    pub fn reading(inner: S) -> Self {
        Self { inner, ahead: None, gathered: None, gather: false }
    }

    /// Reads ahead and gathers writes.
    pub fn both(inner: S) -> Self {
        Self { inner, ahead: None, gathered: None, gather: true }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut chunk = match self.ahead.take() {
            Some(chunk) => chunk,
            None if out.remaining() >= SIZE => return Pin::new(&mut self.inner).poll_read(cx, out),
            None => {
                let mut chunk = Chunk::take();
                let read = poll_read_buf(Pin::new(&mut self.inner), cx, &mut (&mut chunk.bytes).limit(SIZE));
                if chunk.bytes.is_empty() {
                    chunk.give_back();
                    return read.map_ok(|_| ());
                }
                chunk
            }
        };
        let len = out.remaining().min(chunk.filled().len());
        out.put_slice(&chunk.filled()[..len]);
        chunk.start += len;
        if chunk.start < chunk.bytes.len() {
            self.ahead = Some(chunk);
        } else {
            chunk.give_back();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Buffered<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(chunk) = &mut self.gathered {
            if chunk.filled().is_empty() {
                if let Some(chunk) = self.gathered.take() {
                    chunk.give_back();
                }
                break;
            }
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, chunk.filled()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            chunk.start += written;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.gather {
            return Pin::new(&mut self.inner).poll_write(cx, bytes);
        }
        if self.gathered.as_ref().is_some_and(|chunk| chunk.bytes.len() == SIZE) {
            ready!(self.poll_drain(cx))?;
        }
        let chunk = self.gathered.get_or_insert_with(Chunk::take);
        let len = bytes.len().min(SIZE - chunk.bytes.len());
        chunk.bytes.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gather {
            let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
            return self.poll_write(cx, first);
        }
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        !self.gather && self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_unchanged_and_idle_costs_no_buffer() {
        let (near, far) = tokio::io::duplex(10_000);
        let (mut near, mut far) = (Buffered::both(near), Buffered::reading(far));
        let sent: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            for piece in sent.chunks(7_777) {
                near.write_all(piece).await.unwrap();
            }
            near.flush().await.unwrap();
            assert!(near.gathered.is_none());
            near.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert!(got == expected);
        assert!(far.ahead.is_none());
    }
}
