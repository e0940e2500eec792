//! A stream of HTTP/2 as what carries a tunnel: credit is given back as bytes are handed over, and little waits to be
//! sent (docs/04, "HTTP/2").

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use futures_util::task::AtomicWaker;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, SEC_WEBSOCKET_PROTOCOL};
use tokio_util::sync::DropGuard;

use crate::config;
use crate::net::tunnel::{self, Batch, Carrier, Inbox};

/// The media type of a plain tunnel's bodies.
pub const MEDIA_TYPE: &str = "application/httvps";

/// Bytes for one DATA frame.
#[derive(Debug, Default)]
pub struct Piece {
    bytes: tunnel::Piece,
    under_way: Option<Arc<UnderWay>>,
}

/// Pieces that have not left yet.
#[derive(Debug, Default)]
struct UnderWay {
    pieces: AtomicUsize,
    none_left: AtomicWaker,
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self { bytes: bytes.into(), under_way: None }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(under_way) = &self.under_way
            && under_way.pieces.fetch_sub(1, Ordering::AcqRel) == 1
        {
            under_way.none_left.wake();
        }
    }
}

/// A stream's two directions.
pub struct Channel {
    send: SendStream<Piece>,
    receive: Receive,
    under_way: Arc<UnderWay>,
    buffer: usize,
    /// Keeps a client's connection until the stream is over.
    _connection: Option<DropGuard>,
}

enum Receive {
    /// The server has not answered; the subprotocol that it has to choose.
    Unanswered(ResponseFuture, Option<&'static str>),
    Open(RecvStream),
}

impl Channel {
    /// The server's end of a stream that it has answered with 200.
    pub fn accepted(send: SendStream<Piece>, receive: RecvStream, config: &config::Http2) -> Self {
        Self::new(send, Receive::Open(receive), config, None)
    }

    /// The client's end of a stream whose answer is still to come.
    pub fn requested(
        send: SendStream<Piece>,
        response: ResponseFuture,
        protocol: Option<&'static str>,
        config: &config::Http2,
        connection: DropGuard,
    ) -> Self {
        Self::new(send, Receive::Unanswered(response, protocol), config, Some(connection))
    }

    fn new(send: SendStream<Piece>, receive: Receive, config: &config::Http2, connection: Option<DropGuard>) -> Self {
        let buffer = usize::try_from(config.send_buffer.as_u64()).unwrap_or(usize::MAX);
        Self { send, receive, under_way: Arc::default(), buffer, _connection: connection }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut RecvStream>> {
        if let Receive::Unanswered(response, protocol) = &mut self.receive {
            let response = ready!(response.poll_unpin(cx)).map_err(broken)?;
            let status = response.status();
            if status != StatusCode::OK {
                return Poll::Ready(Err(io::Error::other(format!("the server answered {status}"))));
            }
            let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            if let Some(protocol) = protocol
                && chosen.is_none_or(|chosen| chosen != *protocol)
            {
                return Poll::Ready(Err(io::Error::other(format!("the server did not choose {protocol}"))));
            }
            if protocol.is_none() && response.headers().get(CONTENT_TYPE).is_none_or(|kind| kind != MEDIA_TYPE) {
                return Poll::Ready(Err(io::Error::other(format!("the server did not answer with {MEDIA_TYPE}"))));
            }
            self.receive = Receive::Open(response.into_body());
        }
        match &mut self.receive {
            Receive::Open(receive) => Poll::Ready(Ok(receive)),
            Receive::Unanswered(..) => Poll::Pending,
        }
    }

    /// Whether all that was sent has left; otherwise the task is woken when it has.
    fn poll_empty(&self, cx: &Context<'_>) -> bool {
        if self.under_way.pieces.load(Ordering::Acquire) == 0 {
            return true;
        }
        self.under_way.none_left.register(cx.waker());
        self.under_way.pieces.load(Ordering::Acquire) == 0
    }

    /// Room for a piece of so many bytes, or for some of it if nothing else is waiting to leave.
    fn poll_room(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        let wanted = len.min(self.buffer);
        self.send.reserve_capacity(wanted);
        loop {
            let room = self.send.capacity();
            if room >= wanted || room > 0 && self.poll_empty(cx) {
                return Poll::Ready(Ok(room.min(len)));
            }
            let error = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => continue,
                Some(Err(error)) => broken(error),
                None => io::ErrorKind::BrokenPipe.into(),
            };
            ready!(self.poll_open(cx))?;
            return Poll::Ready(Err(error));
        }
    }
}

impl Carrier for Channel {
    fn poll_read(&mut self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<io::Result<usize>> {
        let receive = ready!(self.poll_open(cx))?;
        loop {
            match ready!(receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(0)),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    let len = piece.len();
                    receive.flow_control().release_capacity(len).map_err(broken)?;
                    inbox.put(piece);
                    return Poll::Ready(Ok(len));
                }
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<()>> {
        let room = ready!(self.poll_room(cx, batch.next_len()))?;
        let bytes = batch.take(room);
        self.under_way.pieces.fetch_add(1, Ordering::AcqRel);
        let piece = Piece { bytes, under_way: Some(Arc::clone(&self.under_way)) };
        Poll::Ready(self.send.send_data(piece, false).map_err(broken))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.poll_empty(cx) {
            return Poll::Pending;
        }
        Poll::Ready(self.send.send_data(Piece::default(), true).map_err(broken))
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io()
        && let Some(error) = error.get_io()
    {
        return error.kind().into();
    }
    io::Error::other(error)
}
