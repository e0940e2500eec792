use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use h2::server::{Connection, Handshake};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::classify::Owner;
use crate::gateway::upgrade::Grant;
use crate::gateway::{GatewayState, http2 as server};

/// What a client says first (RFC 9113, section 3.4).
pub(in crate::gateway) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's header (RFC 9113, section 4.1).
const HEADER: usize = 9;
const HEADERS: u8 = 1;

/// Classifies the first request of an HTTP/2 connection: a server reads it whose answers nobody hears.
pub(super) struct Http2Classifier<'a> {
    state: &'a GatewayState,
    replay: Replay,
    fed: usize,
    progress: Progress,
}

enum Progress {
    Opening(Pin<Box<Handshake<Replay, Bytes>>>),
    Open(Box<Connection<Replay, Bytes>>),
}

impl<'a> Http2Classifier<'a> {
    pub(super) fn new(state: &'a GatewayState) -> Self {
        let replay = Replay::default();
        let opening = server::builder(&state.http2).handshake(replay.clone());
        Self { state, replay, fed: 0, progress: Progress::Opening(Box::pin(opening)) }
    }

    /// Classifies all that was read so far; none while the first request is not whole.
    pub(super) fn classify(&mut self, read: &[u8]) -> Option<Owner> {
        self.replay.feed(read.get(self.fed..).unwrap_or_default());
        self.fed = read.len();
        let mut cx = Context::from_waker(Waker::noop());
        if let Progress::Opening(opening) = &mut self.progress {
            match opening.as_mut().poll(&mut cx) {
                Poll::Ready(Ok(connection)) => self.progress = Progress::Open(Box::new(connection)),
                Poll::Ready(Err(_)) => return Some(Owner::Site),
                Poll::Pending => return self.unless_too_long(),
            }
        }
        let Progress::Open(connection) = &mut self.progress else { return self.unless_too_long() };
        match connection.poll_accept(&mut cx) {
            Poll::Ready(Some(Ok((request, _)))) => Some(Owner::of(Grant::of(&request, self.state))),
            Poll::Ready(Some(Err(_)) | None) => Some(Owner::Site),
            Poll::Pending => self.unless_too_long(),
        }
    }

    /// How much of what was read comes before the first request, which may be a client's.
    pub(super) fn open(read: &[u8]) -> usize {
        let mut open = PREFACE.len();
        while let Some(&[high, middle, low, kind, ..]) = read.get(open..open.saturating_add(HEADER))
            && kind != HEADERS
        {
            let len = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            open = open.saturating_add(HEADER).saturating_add(len);
        }
        open.min(read.len())
    }

    fn unless_too_long(&self) -> Option<Owner> {
        let most = usize::try_from(self.state.tunnel.request_max.as_u64()).unwrap_or(usize::MAX);
        (self.fed > most).then_some(Owner::Site)
    }
}

/// A connection of which only the reading matters.
#[derive(Clone, Debug, Default)]
struct Replay(Arc<Mutex<BytesMut>>);

impl Replay {
    fn feed(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

impl AsyncRead for Replay {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_empty() {
            return Poll::Pending;
        }
        let len = bytes.len().min(out.remaining());
        out.put_slice(bytes.get(..len).unwrap_or_default());
        bytes.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_before_the_first_request_is_open() {
        let mut read = PREFACE.to_vec();
        assert_eq!((Http2Classifier::open(&read[..10]), Http2Classifier::open(&read)), (10, 24));
        read.extend([0, 0, 2, 4, 0, 0, 0, 0, 0, 7, 7]);
        assert_eq!((Http2Classifier::open(&read[..30]), Http2Classifier::open(&read)), (24, 35));
        read.extend([0, 0, 9, HEADERS, 4, 0, 0, 0, 1, 0x82]);
        assert_eq!(Http2Classifier::open(&read), 35);
    }
}
