mod closing;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastwebsockets::OpCode;
use tokio::time::Sleep;

use super::Tunnel;
use super::batch::Batch;
use super::carrier::Carrier;
use super::inbox::Inbox;
use crate::frame::Encoding;
use crate::mux::{Message, SessionError, Transmit};
use crate::net::websocket::{Incoming, Side, Violation, write_header};

use closing::{DISCARD_MAX, close_status};

/// Rounds before others run: few, so that what was read is still in the cache when its streams encrypt it.
const TURNS: usize = 4;

/// What is around a tunnel's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// RFC 6455, as this end of it.
    WebSocket(Side),
    /// Nothing: frames of encoding v2 follow each other.
    Frames,
}

/// What a tunnel runs over and how.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// What is around its messages.
    pub framing: Framing,
    /// The encoding of its messages.
    pub encoding: Encoding,
    /// Largest message in bytes.
    pub message_max: usize,
    /// Largest message before hello was answered.
    pub hello_max: usize,
    /// Most frames of a message.
    pub fragments_max: usize,
    /// How long the last messages may take to leave.
    pub close_timeout: Duration,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("closed")]
    Closed,
    #[error("the peer closed")]
    ByPeer,
    #[error("the peer is gone")]
    Gone,
    #[error("the session goes on over another connection")]
    Replaced,
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("WebSocket: {0}")]
    Violation(#[from] Violation),
}

/// Moves bytes between what carries them and a tunnel until one of them ends.
pub struct Driver<C> {
    carrier: C,
    tunnel: Tunnel,
    /// Which of the tunnel's drivers this is.
    number: u32,
    transport: Transport,
    inbox: Inbox,
    output: Batch,
    pong: Option<Bytes>,
    unflushed: bool,
    closing: bool,
    /// What may still be read and thrown away.
    discard: usize,
    close_deadline: Option<Pin<Box<Sleep>>>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<C: Carrier> Driver<C> {
    /// A driver for an upgraded socket or a stream; `read` is what was read of it beyond the handshake.
    pub fn new(carrier: C, read: Bytes, tunnel: Tunnel, transport: Transport) -> Self {
        let number = tunnel.state().replace_driver();
        Self {
            carrier,
            tunnel,
            number,
            transport,
            inbox: Inbox::new(&transport, read),
            output: Batch::default(),
            pong: None,
            unflushed: false,
            closing: false,
            discard: DISCARD_MAX,
            close_deadline: None,
            timer: None,
        }
    }

    /// Runs until the connection ends; then the tunnel is gone. A peer that broke the rules is told so, unless it did
    /// before it had said `hello`: then it is told nothing, and the session's owner says when the connection ends.
    pub async fn run(mut self) -> Ended {
        let mut ended = poll_fn(|cx| self.poll(cx)).await;
        if self.is_lost(&ended) {
            return ended;
        }
        let refused = matches!(ended, Ended::Session(_) | Ended::Violation(_) | Ended::ByPeer);
        if refused && self.tunnel.state().session.is_unheard() {
            tracing::debug!(reason = %ended, "connection broke the protocol before hello");
            ended = self.keep_silent().await;
        }
        let timeout = self.transport.close_timeout;
        match tokio::time::timeout(timeout, self.linger(&ended)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "failed to close the connection"),
            Err(_) => tracing::debug!("timed out closing the connection"),
        }
        self.tunnel.state().connection_gone();
        ended
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        for _ in 0..TURNS {
            let idle = match self.poll_write(cx) {
                Ok(true) if self.closing => return Poll::Ready(Ended::Closed),
                Ok(idle) => idle,
                Err(error) => return Poll::Ready(error),
            };
            let read = match self.poll_read(cx) {
                Ok(progress) => progress,
                Err(error) => return Poll::Ready(error),
            };
            if self.poll_close_deadline(cx).is_ready() {
                return Poll::Ready(Ended::Gone);
            }
            if read {
                continue;
            }
            match self.poll_timer(cx).and_then(|handled| Ok(!handled && self.rest(cx, idle)?)) {
                Ok(true) => return Poll::Pending,
                Ok(false) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Registers for wake-ups from the tunnel; `false` when something came up meanwhile. While the socket takes
    /// nothing only the end of a pause matters.
    fn rest(&mut self, cx: &mut Context<'_>, idle: bool) -> Result<bool, Ended> {
        if self.discard <= DISCARD_MAX && self.succeed() {
            return Ok(false);
        }
        let mut state = self.tunnel.attached(self.number)?;
        let paused = state.session.is_paused();
        let resumed = state.driver_paused && !paused;
        state.driver_paused = paused;
        let ended = state.session.is_closed() && self.close_deadline.is_none();
        if resumed || ended || idle && state.session.wants_transmit() {
            return Ok(false);
        }
        state.driver_blocked = !idle;
        state.driver = Some(cx.waker().clone());
        Ok(true)
    }

    /// Writes what there is; `Ok(true)` when nothing is left and all is flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        loop {
            self.gather()?;
            if self.output.is_empty() {
                break;
            }
            match self.carrier.poll_write(cx, &mut self.output)? {
                Poll::Ready(()) => self.unflushed = true,
                Poll::Pending => return Ok(false),
            }
        }
        if self.unflushed {
            match self.carrier.poll_flush(cx)? {
                Poll::Ready(()) => self.unflushed = false,
                Poll::Pending => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Takes messages from the session for one write.
    fn gather(&mut self) -> Result<(), Ended> {
        if !self.output.has_room() || self.closing {
            return Ok(());
        }
        if let Some(payload) = self.pong.take() {
            self.queue(Message::from(&payload[..]), OpCode::Pong);
        }
        let tunnel = self.tunnel.clone();
        let mut state = tunnel.attached(self.number)?;
        while self.output.has_room()
            && !self.closing
            && let Some(transmit) = state.session.poll_transmit()
        {
            match transmit {
                Transmit::Message(message) => {
                    let opcode = match self.transport.encoding {
                        Encoding::V1 => OpCode::Text,
                        Encoding::V2 => OpCode::Binary,
                    };
                    self.queue(message, opcode);
                }
                Transmit::Ping => self.queue(Message::with_capacity(0), OpCode::Ping),
                Transmit::Close(code) => {
                    let is_told = matches!(self.transport.framing, Framing::WebSocket(_));
                    if is_told && !state.session.is_unheard() {
                        let status = code.map_or(1000, close_status);
                        self.queue(Message::from(&status.to_be_bytes()[..]), OpCode::Close);
                    }
                    self.closing = true;
                }
            }
        }
        state.deliver_events();
        Ok(())
    }

    fn queue(&mut self, mut message: Message, opcode: OpCode) {
        if let Framing::WebSocket(side) = self.transport.framing {
            write_header(&mut message, opcode, side);
        }
        self.output.push(message);
    }

    /// Reads and hands over what came; `Ok(false)` when there is nothing now.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if self.pong.is_some() || self.tunnel.attached(self.number)?.session.is_paused() {
            return Ok(false);
        }
        if !self.inbox.is_ripe() {
            match self.carrier.poll_read(cx, &mut self.inbox)? {
                Poll::Ready(0) => return Err(self.inbox.end()),
                Poll::Ready(_) => self.heard(),
                Poll::Pending => {
                    self.inbox.rest();
                    return Ok(false);
                }
            }
        }
        while self.inbox.is_ripe() {
            if let Some(incoming) = self.inbox.next()? {
                self.take(incoming)?;
            }
            let fragments = self.inbox.take_fragments();
            if fragments > 0 {
                self.tunnel.state().session.charge_fragments(fragments, Instant::now())?;
            }
            if self.pong.is_some() || self.tunnel.state().session.is_paused() {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn heard(&mut self) {
        let small = self.inbox.take_small();
        let (mut state, now) = (self.tunnel.state(), Instant::now());
        state.session.heard(now);
        if let Some(len) = small {
            state.session.charge_piece(len, now);
        }
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), Ended> {
        let now = Instant::now();
        let message = match (incoming, self.transport.encoding) {
            (Incoming::Text(message), Encoding::V1) | (Incoming::Binary(message), Encoding::V2) => message,
            (Incoming::Text(_) | Incoming::Binary(_), _) => {
                return Err(SessionError::Unexpected("a message of the other encoding").into());
            }
            (Incoming::Ping(payload), _) => {
                let mut state = self.tunnel.state();
                state.session.charge_ping(now)?;
                self.pong = (!state.session.is_unheard()).then_some(payload);
                return Ok(());
            }
            (Incoming::Pong, _) => {
                self.tunnel.state().session.pong(now)?;
                return Ok(());
            }
            (Incoming::Close(_), _) => return Err(Ended::ByPeer),
        };
        let mut state = self.tunnel.attached(self.number)?;
        let handled = state.session.handle_message(message, now);
        state.deliver_events();
        if state.session.is_open() {
            self.inbox.allow(self.transport.message_max);
            self.discard = usize::MAX;
        }
        Ok(handled?)
    }

    /// `Ok(true)` when a deadline passed and was handled.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let Some(deadline) = self.tunnel.state().session.poll_timeout() else {
            self.timer = None;
            return Ok(false);
        };
        let (set, sleep) =
            self.timer.get_or_insert_with(|| (deadline, Box::pin(tokio::time::sleep_until(deadline.into()))));
        if deadline < *set {
            *set = deadline;
            sleep.as_mut().reset(deadline.into());
        }
        if sleep.as_mut().poll(cx).is_pending() {
            return Ok(false);
        }
        self.timer = None;
        let mut state = self.tunnel.state();
        let handled = state.session.handle_timeout(Instant::now());
        state.deliver_events();
        handled?;
        Ok(true)
    }
}

impl<C> Driver<C> {
    /// Goes on with another session, if this one has taken one up.
    fn succeed(&mut self) -> bool {
        let successor = self.tunnel.state().successor.take();
        let Some((tunnel, number)) = successor else { return false };
        self.tunnel.state().gone = true;
        (self.tunnel, self.number) = (tunnel, number);
        self.inbox.allow(self.transport.message_max);
        self.discard = usize::MAX;
        true
    }
}

impl<C> Drop for Driver<C> {
    fn drop(&mut self) {
        self.succeed();
        self.tunnel.abandon(self.number);
    }
}

#[cfg(test)]
pub(crate) mod tests;
