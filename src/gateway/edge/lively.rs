use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How often a connection that moves says so.
const EVERY: Duration = Duration::from_millis(500);

/// A connection that says, now and then, that bytes move to its caller.
pub(in crate::gateway) struct Lively<'a, S> {
    inner: S,
    tell: &'a (dyn Fn() + Send + Sync),
    told: Option<Instant>,
}

impl<'a, S> Lively<'a, S> {
    /// Tells of what is written to a connection.
    pub(in crate::gateway) fn new(inner: S, tell: &'a (dyn Fn() + Send + Sync)) -> Self {
        Self { inner, tell, told: None }
    }

    /// The connection.
    pub(in crate::gateway) fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lively<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lively<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        let now = Instant::now();
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= EVERY) {
            self.told = Some(now);
            (self.tell)();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
