use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;

use super::{State, Tunnel};
use crate::frame::StreamCode;
use crate::mux::{Capacity, Received, StreamKey};

/// One stream of a tunnel; used by one task. Dropping it cancels what is not finished.
#[derive(Debug)]
pub struct TunnelStream {
    tunnel: Tunnel,
    key: StreamKey,
}

impl TunnelStream {
    pub(super) fn new(tunnel: Tunnel, key: StreamKey) -> Self {
        Self { tunnel, key }
    }

    fn wait(&self, state: &mut State, cx: &Context<'_>) {
        match state.streams.get_mut(&self.key) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                state.streams.insert(self.key, cx.waker().clone());
            }
        }
    }

    /// Bytes, the end, or a reset.
    pub fn poll_receive(&mut self, cx: &Context<'_>) -> Poll<Received> {
        let mut state = self.tunnel.state();
        match state.session.receive(self.key) {
            Received::Nothing => {
                self.wait(&mut state, cx);
                Poll::Pending
            }
            received @ (Received::Data(_) | Received::Finished | Received::Reset(_)) => {
                state.settle();
                Poll::Ready(received)
            }
        }
    }

    /// Ready once the stream was reset or its session is over.
    pub fn poll_gone(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.tunnel.state();
        if state.session.is_gone(self.key) {
            return Poll::Ready(());
        }
        self.wait(&mut state, cx);
        Poll::Pending
    }

    /// The destination took `len` bytes.
    pub fn consumed(&mut self, len: usize) {
        self.tunnel.act(|session| session.consumed(self.key, len, Instant::now()));
    }

    /// How many bytes may be sent in one piece; `None` when the peer takes no more.
    pub fn poll_capacity(&mut self, cx: &Context<'_>) -> Poll<Option<usize>> {
        let mut state = self.tunnel.state();
        match state.session.capacity(self.key) {
            Capacity::Bytes(len) => Poll::Ready(Some(len)),
            Capacity::Closed => Poll::Ready(None),
            Capacity::Blocked => {
                self.wait(&mut state, cx);
                Poll::Pending
            }
        }
    }

    /// Sends a payload that lies behind [`crate::mux::HEADROOM`] free bytes and fits the capacity.
    pub fn send(&mut self, payload: BytesMut) {
        self.tunnel.act(|session| session.send(self.key, payload));
    }

    /// Ends this side's direction.
    pub fn finish(&mut self) {
        self.tunnel.act(|session| session.finish(self.key));
    }

    /// Ends both directions with a reason.
    pub fn reset(&mut self, code: StreamCode) {
        self.tunnel.act(|session| session.reset(self.key, code));
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let mut state = self.tunnel.state();
        state.streams.remove(&self.key);
        state.session.forget(self.key);
        state.settle();
    }
}
