//! An HTTP/2 connection whose frames are counted as they are read: a flood of those that carry nothing ends it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::mux::TokenBucket;

const PREFACE: usize = 24;
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Reads from a connection while its frames stay within a rate.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    meter: Meter,
}

impl<S> Metered<S> {
    /// A server's end of a connection, before anything was read: so many frames a second that are neither HEADERS nor DATA
    /// with bytes, one second's worth at once.
    pub fn new(inner: S, frames_per_second: u32) -> Self {
        Self { inner, meter: Meter::new(frames_per_second, Instant::now()) }
    }
}

/// Finds the frames in what is read (RFC 9113, section 4.1).
#[derive(Debug)]
struct Meter {
    /// Bytes of the preface or of a payload that are still to come.
    rest: usize,
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    have: usize,
    frames: TokenBucket,
}

impl Meter {
    fn new(frames_per_second: u32, now: Instant) -> Self {
        Self { rest: PREFACE, header: [0; HEADER], have: 0, frames: TokenBucket::new(frames_per_second, now) }
    }

    /// Counts what is in these bytes; `false` once it was too much.
    fn pass(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            while let Some(space) = self.header.get_mut(self.have)
                && let Some((byte, rest)) = bytes.split_first()
            {
                *space = *byte;
                self.have += 1;
                bytes = rest;
            }
            if self.have == HEADER {
                self.have = 0;
                let [high, middle, low, kind, flags, ..] = self.header;
                self.rest = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                let carries = kind == HEADERS || kind == DATA && (self.rest > 0 || flags & END_STREAM != 0);
                if !carries && !self.frames.take(now) {
                    return false;
                }
            }
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, out))?;
        if self.meter.pass(out.filled().get(before..).unwrap_or_default(), Instant::now()) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::Error::other("a flood of frames that carry nothing")))
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, len, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + usize::from(len), 6);
        frame
    }

    fn after_preface(now: Instant) -> Meter {
        let mut meter = Meter::new(3, now);
        assert!(meter.pass(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now));
        meter
    }

    #[test]
    fn what_carries_something_is_free_however_it_comes() {
        let now = Instant::now();
        let mut meter = after_preface(now);
        let carrying =
            [frame(HEADERS, 4, 20), frame(DATA, 0, 200), frame(DATA, END_STREAM, 0), frame(4, 0, 6)].concat();
        for byte in carrying.repeat(3) {
            assert!(meter.pass(&[byte], now));
        }
        assert!(!meter.pass(&carrying, now), "three SETTINGS a second");
    }

    #[test]
    fn what_carries_nothing_has_a_rate() {
        let now = Instant::now();
        for (kind, len) in [(2, 5), (3, 4), (4, 0), (6, 8), (8, 4), (9, 20), (DATA, 0), (77, 3)] {
            let mut meter = after_preface(now);
            assert!(meter.pass(&frame(kind, 0, len).repeat(3), now));
            assert!(!meter.pass(&frame(kind, 0, len), now), "{kind}");
            assert!(meter.pass(&frame(kind, 0, len), now + std::time::Duration::from_secs(1)), "{kind}");
        }
    }
}
