use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;

use super::{State, Tunnel};
use crate::frame::{Datagram, StreamCode, Target};
use crate::mux::{Capacity, Payload, Received, StreamKey};

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
    pub fn poll_receive(&self, cx: &Context<'_>) -> Poll<Received> {
        let mut state = self.tunnel.state();
        match state.session.receive(self.key) {
            Received::Nothing => {
                self.wait(&mut state, cx);
                Poll::Pending
            }
            received @ (Received::Data(_) | Received::Finished | Received::Reset(_)) => {
                state.flush_events();
                Poll::Ready(received)
            }
        }
    }

    /// Ready once the stream was reset or its session is over.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.tunnel.state();
        if state.session.is_gone(self.key) {
            return Poll::Ready(());
        }
        self.wait(&mut state, cx);
        Poll::Pending
    }

    /// Resolves once the stream was reset or its session is over.
    pub async fn gone(&self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }

    /// The destination took `len` bytes.
    pub fn consumed(&self, len: usize) {
        self.tunnel.act(|session| session.consumed(self.key, len, Instant::now()));
    }

    /// How many bytes may be sent in one piece; `None` when the peer takes no more.
    pub fn poll_capacity(&self, cx: &Context<'_>) -> Poll<Option<usize>> {
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

    /// Sends a payload that fits the capacity.
    pub fn send(&self, payload: Payload) {
        self.tunnel.act(|session| session.send(self.key, payload));
    }

    /// The next frame of datagram records; `None` at the end of the stream.
    pub async fn next_datagrams(&self) -> Option<Bytes> {
        match poll_fn(|cx| self.poll_receive(cx)).await {
            Received::Data(bytes) => Some(bytes),
            Received::Finished | Received::Reset(_) | Received::Nothing => None,
        }
    }

    /// Sends a datagram in a frame of its own; one that is too large is dropped.
    pub fn send_datagram(&self, peer: &Target, payload: &[u8]) {
        if payload.len() > Datagram::MAX_PAYLOAD {
            return;
        }
        let mut frame = Payload::with_capacity(Datagram::encoded_len(peer, payload.len()));
        Datagram::encode(peer, payload, frame.append());
        self.tunnel.act(|session| session.send_datagrams(self.key, frame));
    }

    /// Ends this side's direction.
    pub fn finish(&self) {
        self.tunnel.act(|session| session.finish(self.key));
    }

    /// Ends both directions with a reason.
    pub fn reset(&self, code: StreamCode) {
        self.tunnel.act(|session| session.reset(self.key, code));
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let mut state = self.tunnel.state();
        state.streams.remove(&self.key);
        state.session.forget(self.key);
        state.flush_events();
    }
}
