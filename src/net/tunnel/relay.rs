//! One stream between a tunnel and a socket (docs/04, "Data path" and "Ends").

mod meter;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use super::TunnelStream;
use crate::frame::StreamCode;
use crate::mux::{Payload, Received};
use crate::net::buffer_pool::BufferPool;
use crate::net::buffered::CHUNK;

pub use meter::Meter;
use meter::Pause;

/// A read that fills less of a buffer than this is copied out of it, so that queues do not hold empty space.
const WORTH_KEEPING: usize = CHUNK / 4;
const TURNS: usize = 16;
/// Once both sides have said all, so much more is read of a socket that does not stop.
const DISCARD_MAX: usize = 4 * CHUNK;

/// A socket that can end with a reset instead of an end of file.
pub trait ResetOnClose {
    /// Whether closing the socket resets its connection from now on (`SO_LINGER` of 0); an end of file that was sent stays.
    fn reset_on_close(&self, reset: bool);
}

impl ResetOnClose for TcpStream {
    fn reset_on_close(&self, reset: bool) {
        if let Err(error) = SockRef::from(self).set_linger(reset.then_some(Duration::ZERO)) {
            tracing::debug!(%error, "failed to set SO_LINGER");
        }
    }
}

/// How long a stream may stand still.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// While both directions are open.
    pub idle: Duration,
    /// Once the socket's side has ended.
    pub half_open: Duration,
    /// Once both sides have said all, while the socket is not closed.
    pub linger: Duration,
}

enum Upload {
    Open,
    /// The tunnel's side finished; the socket is to be told.
    Finishing,
    Done,
    /// The socket takes no more; what it still gives is passed on, but its end is no end of file.
    Broken(StreamCode),
}

enum Download {
    Open,
    /// The tunnel's side wants no more: what the socket still gives is read, so that closing it loses nothing.
    Discarding,
    Done,
}

/// Moves bytes between a stream of a tunnel and a socket until both directions have ended. Dropped before that, or ended by
/// anything but an end of file, it resets the socket's connection.
pub struct Relay<'a, S, M> {
    stream: TunnelStream,
    socket: S,
    meter: &'a M,
    upload: Upload,
    download: Download,
    up_pause: Pause,
    down_pause: Pause,
    /// What the socket gave and the meter does not let through yet.
    withheld: Option<Payload>,
    pending: Bytes,
    /// What of it the socket was offered and has not answered: it must be offered the same again.
    offered: Option<usize>,
    unflushed: usize,
    discarded: usize,
    timeouts: Timeouts,
    idle: Pin<Box<Sleep>>,
    active: Instant,
}

/// How a stream ended.
enum End {
    /// Both directions finished.
    Over,
    /// The tunnel's side was reset or lost.
    Reset,
    Failed(StreamCode),
}

impl<'a, S: AsyncRead + AsyncWrite + ResetOnClose + Unpin, M: Meter> Relay<'a, S, M> {
    /// A relay for a socket that flushes what it gathers.
    pub fn new(stream: TunnelStream, socket: S, meter: &'a M, timeouts: Timeouts) -> Self {
        socket.reset_on_close(true);
        Self {
            stream,
            socket,
            meter,
            upload: Upload::Open,
            download: Download::Open,
            up_pause: Pause::default(),
            down_pause: Pause::default(),
            withheld: None,
            pending: Bytes::new(),
            offered: None,
            unflushed: 0,
            discarded: 0,
            timeouts,
            idle: Box::pin(tokio::time::sleep(timeouts.idle)),
            active: Instant::now(),
        }
    }

    /// Runs to the end; gives the reason if the stream had to be reset.
    pub async fn run(self) -> Result<(), StreamCode> {
        self.run_until(std::future::pending()).await
    }

    /// As [`Relay::run`], but resets the stream once a future gives a reason.
    pub async fn run_until(mut self, over: impl Future<Output = StreamCode>) -> Result<(), StreamCode> {
        let end = tokio::select! {
            biased;
            end = poll_fn(|cx| self.poll(cx)) => end,
            code = over => End::Failed(code),
        };
        if let End::Failed(code) = end {
            self.stream.reset(code);
        }
        if self.unflushed > 0
            && let Ok(Ok(())) = tokio::time::timeout(self.timeouts.linger, self.socket.flush()).await
        {
            self.meter.sent(self.unflushed);
        }
        match end {
            End::Over => {
                self.socket.reset_on_close(false);
                Ok(())
            }
            End::Reset => Ok(()),
            End::Failed(code) => Err(code),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.stream.poll_gone(cx).is_ready() && matches!(self.upload, Upload::Open | Upload::Broken(_)) {
            return Poll::Ready(End::Reset);
        }
        for _ in 0..TURNS {
            let up = match self.poll_upload(cx) {
                Ok(progress) => progress,
                Err(End::Failed(code)) if matches!(self.download, Download::Open) => {
                    self.upload = Upload::Broken(code);
                    true
                }
                Err(end) => return Poll::Ready(end),
            };
            let down = match self.poll_download(cx) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(end),
            };
            if matches!((&self.upload, &self.download), (Upload::Done, Download::Done)) {
                return Poll::Ready(End::Over);
            }
            if let (Upload::Broken(code), Download::Discarding | Download::Done) = (&self.upload, &self.download) {
                return Poll::Ready(End::Failed(*code));
            }
            if up || down {
                self.active = Instant::now();
            } else {
                return self.poll_idle(cx);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let limit = match (&self.upload, &self.download) {
            (Upload::Done, Download::Discarding) => self.timeouts.linger,
            (_, Download::Open) => self.timeouts.idle,
            (_, Download::Discarding | Download::Done) => self.timeouts.half_open,
        };
        let deadline = self.active + limit;
        if deadline < self.idle.deadline() {
            self.idle.as_mut().reset(deadline);
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                let over = matches!((&self.upload, &self.download), (Upload::Done, Download::Discarding));
                return Poll::Ready(if over { End::Over } else { End::Failed(StreamCode::Timeout) });
            }
            self.idle.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Tunnel to socket; `Ok(false)` when nothing moves now.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        loop {
            if matches!(self.upload, Upload::Done | Upload::Broken(_)) {
                return Ok(progress);
            }
            let wants_more = self.pending.is_empty() && matches!(self.upload, Upload::Open);
            if wants_more && self.unflushed < self.meter.chunk_limit() && !self.up_pause.holds(cx) {
                match self.stream.poll_receive(cx) {
                    Poll::Ready(Received::Data(bytes)) => self.pending = bytes,
                    Poll::Ready(Received::Finished) => self.upload = Upload::Finishing,
                    Poll::Ready(Received::Reset(_)) => return Err(End::Reset),
                    Poll::Ready(Received::Nothing) | Poll::Pending => {}
                }
            }
            let limit = self.meter.chunk_limit();
            let next = self.pending.len().min(limit);
            let fits = next > 0 && self.unflushed + next <= limit;
            if self.offered.is_some() || fits && !self.up_pause.withholds(cx, self.meter) {
                let offered = *self.offered.get_or_insert(next);
                match Pin::new(&mut self.socket).poll_write(cx, &self.pending[..offered]).map_err(broken)? {
                    Poll::Ready(written) => {
                        self.offered = None;
                        self.pending.advance(written);
                        self.unflushed += written;
                        progress = true;
                        continue;
                    }
                    Poll::Pending => return Ok(progress),
                }
            }
            if Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)?.is_pending() {
                return Ok(progress);
            }
            if self.unflushed > 0 {
                self.up_pause.until(self.meter.sent(self.unflushed));
                self.stream.consumed(self.unflushed);
                self.unflushed = 0;
                progress = true;
                continue;
            }
            if !matches!(self.upload, Upload::Finishing) || !self.pending.is_empty() {
                return Ok(progress);
            }
            if Pin::new(&mut self.socket).poll_shutdown(cx).map_err(broken)?.is_pending() {
                return Ok(progress);
            }
            self.upload = Upload::Done;
            progress = true;
        }
    }

    /// Socket to tunnel; `Ok(false)` when nothing moves now.
    fn poll_download(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.download {
            Download::Open => {}
            Download::Discarding => return Ok(self.poll_discard(cx)),
            Download::Done => return Ok(false),
        }
        if let Some(payload) = self.withheld.take() {
            if self.down_pause.withholds(cx, self.meter) {
                self.withheld = Some(payload);
                return Ok(false);
            }
            self.deliver(payload);
            return Ok(true);
        }
        if self.down_pause.holds(cx) {
            return Ok(false);
        }
        let room = match self.stream.poll_capacity(cx) {
            Poll::Ready(Some(room)) => room.min(self.meter.chunk_limit()),
            Poll::Ready(None) => {
                self.download = Download::Discarding;
                return Ok(true);
            }
            Poll::Pending => return Ok(false),
        };
        let mut payload = Payload::in_buffer(BufferPool::take());
        let mut ended = None;
        while payload.len() < room {
            match poll_read_buf(Pin::new(&mut self.socket), cx, &mut payload.append_to(room)) {
                Poll::Ready(Ok(0)) => ended = Some(Ok(())),
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => ended = Some(Err(broken(error))),
                Poll::Pending => {}
            }
            break;
        }
        let read = payload.len();
        if read == 0 {
            BufferPool::give(payload.into_buffer());
        } else if ended.is_none() && self.down_pause.withholds(cx, self.meter) {
            self.withheld = Some(payload);
            return Ok(false);
        } else {
            self.deliver(payload);
        }
        match ended {
            Some(Err(end)) => Err(end),
            Some(Ok(())) => match self.upload {
                Upload::Broken(code) => Err(End::Failed(code)),
                Upload::Open | Upload::Finishing | Upload::Done => {
                    self.download = Download::Done;
                    self.stream.finish();
                    Ok(true)
                }
            },
            None => Ok(read > 0),
        }
    }
}

impl<S: AsyncRead + Unpin, M: Meter> Relay<'_, S, M> {
    /// Counts what came from the socket and passes it on.
    fn deliver(&mut self, payload: Payload) {
        self.down_pause.until(self.meter.received(payload.len()));
        if payload.len() < WORTH_KEEPING {
            let copy = Payload::from(&payload[..]);
            BufferPool::give(payload.into_buffer());
            self.stream.send(copy);
        } else {
            self.stream.send(payload);
        }
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> bool {
        let mut buffer = BufferPool::take();
        let read = poll_read_buf(Pin::new(&mut self.socket), cx, &mut (&mut buffer).limit(CHUNK));
        BufferPool::give(buffer);
        match read {
            Poll::Ready(Ok(read @ 1..)) => {
                let upload_done = matches!(self.upload, Upload::Done);
                self.discarded += if upload_done { read } else { 0 };
                if self.discarded > DISCARD_MAX {
                    self.download = Download::Done;
                    return true;
                }
                cx.waker().wake_by_ref();
                false
            }
            Poll::Ready(Ok(0) | Err(_)) => {
                self.download = Download::Done;
                true
            }
            Poll::Pending => false,
        }
    }
}

/// What a failed socket means for the stream.
#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn broken(error: io::Error) -> End {
    let refused = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    End::Failed(if refused { StreamCode::Refused } else { StreamCode::Unreachable })
}

#[cfg(test)]
mod tests;
