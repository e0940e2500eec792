//! One stream between a tunnel and a socket (docs/04, "Data path").

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use super::TunnelStream;
use crate::frame::StreamCode;
use crate::mux::{HEADROOM, Received};
use crate::net::buffered::CHUNK;
use crate::net::pool;

/// A read that fills less of a buffer than this is copied out of it, so that queues do not hold empty space.
const WORTH_KEEPING: usize = CHUNK / 4;
const TURNS: usize = 16;
/// Once both sides have said all, so much more is read of a socket that does not stop.
const DISCARD_MAX: usize = 4 * CHUNK;

/// Counts payload bytes as the socket takes and gives them, and paces them.
pub trait Meter {
    /// Gives when to look again, if nothing may move now.
    fn hold(&self) -> Option<Instant>;
    /// The socket took bytes of the tunnel's; gives when it may take more, if not now.
    fn sent(&self, bytes: usize) -> Option<Instant>;
    /// The socket gave bytes for the tunnel; gives when it may give more, if not now.
    fn received(&self, bytes: usize) -> Option<Instant>;
    /// Most bytes to move at once.
    fn piece(&self) -> usize;
}

/// Counts nothing.
impl Meter for () {
    fn hold(&self) -> Option<Instant> {
        None
    }

    fn sent(&self, _: usize) -> Option<Instant> {
        None
    }

    fn received(&self, _: usize) -> Option<Instant> {
        None
    }

    fn piece(&self) -> usize {
        CHUNK
    }
}

/// A direction that waits for its rate.
#[derive(Default)]
struct Pause(Option<Pin<Box<Sleep>>>);

impl Pause {
    fn until(&mut self, at: Option<Instant>) {
        if let Some(at) = at {
            match &mut self.0 {
                Some(sleep) => sleep.as_mut().reset(at),
                None => self.0 = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
    }

    /// Whether the time has not come.
    fn holds(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(sleep) = &mut self.0 else { return false };
        if sleep.as_mut().poll(cx).is_pending() {
            return true;
        }
        self.0 = None;
        false
    }

    /// Whether the time has not come, or the meter lets nothing move; asked when there is something to move.
    fn withholds(&mut self, cx: &mut Context<'_>, meter: &impl Meter) -> bool {
        while !self.holds(cx) {
            let hold = meter.hold();
            if hold.is_none() {
                return false;
            }
            self.until(hold);
        }
        true
    }
}

/// How long a stream may stand still.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
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
}

enum Download {
    Open,
    /// The tunnel's side wants no more: what the socket still gives is read, so that closing it loses nothing.
    Discarding,
    Done,
}

/// Moves bytes between a stream of a tunnel and a socket until both directions have ended.
pub struct Relay<'a, S, M> {
    stream: TunnelStream,
    socket: S,
    meter: &'a M,
    upload: Upload,
    download: Download,
    up_pause: Pause,
    down_pause: Pause,
    /// What the socket gave and the meter does not let through yet.
    withheld: Option<BytesMut>,
    pending: Bytes,
    /// What of it the socket was offered and has not answered: it must be offered the same again.
    offered: Option<usize>,
    unflushed: usize,
    discarded: usize,
    patience: Patience,
    idle: Pin<Box<Sleep>>,
    active: Instant,
}

/// How a stream ended.
enum End {
    /// Both directions finished, or the tunnel's side ended it.
    Over,
    Failed(StreamCode),
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin, M: Meter> Relay<'a, S, M> {
    /// A relay for a socket that flushes what it gathers.
    pub fn new(stream: TunnelStream, socket: S, meter: &'a M, patience: Patience) -> Self {
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
            patience,
            idle: Box::pin(tokio::time::sleep(patience.idle)),
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
        if self.unflushed > 0
            && let Ok(Ok(())) = tokio::time::timeout(self.patience.linger, self.socket.flush()).await
        {
            self.meter.sent(self.unflushed);
        }
        match end {
            End::Over => Ok(()),
            End::Failed(code) => {
                self.stream.reset(code);
                Err(code)
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.stream.poll_gone(cx).is_ready() && matches!(self.upload, Upload::Open) {
            return Poll::Ready(End::Over);
        }
        for _ in 0..TURNS {
            let up = match self.poll_upload(cx) {
                Ok(progress) => progress,
                Err(End::Failed(_)) if matches!(self.download, Download::Open) => {
                    self.upload = Upload::Done;
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
            (Upload::Done, Download::Discarding) => self.patience.linger,
            (_, Download::Open) => self.patience.idle,
            (_, Download::Discarding | Download::Done) => self.patience.half_open,
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
            if matches!(self.upload, Upload::Done) {
                return Ok(progress);
            }
            let wants_more = self.pending.is_empty() && matches!(self.upload, Upload::Open);
            if wants_more && self.unflushed < self.meter.piece() && !self.up_pause.holds(cx) {
                match self.stream.poll_receive(cx) {
                    Poll::Ready(Received::Data(bytes)) => self.pending = bytes,
                    Poll::Ready(Received::Finished) => self.upload = Upload::Finishing,
                    Poll::Ready(Received::Reset(_)) => return Err(End::Over),
                    Poll::Ready(Received::Nothing) | Poll::Pending => {}
                }
            }
            let piece = self.meter.piece();
            let next = self.pending.len().min(piece);
            let fits = next > 0 && self.unflushed + next <= piece;
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
        if let Some(buffer) = self.withheld.take() {
            if self.down_pause.withholds(cx, self.meter) {
                self.withheld = Some(buffer);
                return Ok(false);
            }
            self.deliver(buffer);
            return Ok(true);
        }
        if self.down_pause.holds(cx) {
            return Ok(false);
        }
        let room = match self.stream.poll_capacity(cx) {
            Poll::Ready(Some(room)) => room.min(self.meter.piece()),
            Poll::Ready(None) => {
                self.download = Download::Discarding;
                return Ok(true);
            }
            Poll::Pending => return Ok(false),
        };
        let mut buffer = empty_buffer();
        let mut ended = None;
        while buffer.len() < HEADROOM + room {
            let left = HEADROOM + room - buffer.len();
            let mut space = (&mut buffer).limit(left);
            match poll_read_buf(Pin::new(&mut self.socket), cx, &mut space) {
                Poll::Ready(Ok(0)) => ended = Some(Ok(())),
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => ended = Some(Err(broken(error))),
                Poll::Pending => {}
            }
            break;
        }
        let read = buffer.len() - HEADROOM;
        if read == 0 {
            pool::give(buffer);
        } else if ended.is_none() && self.down_pause.withholds(cx, self.meter) {
            self.withheld = Some(buffer);
            return Ok(false);
        } else {
            self.deliver(buffer);
        }
        match ended {
            Some(Err(end)) => Err(end),
            Some(Ok(())) => {
                self.download = Download::Done;
                self.stream.finish();
                Ok(true)
            }
            None => Ok(read > 0),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, M: Meter> Relay<'_, S, M> {
    /// Counts what came from the socket and passes it on.
    fn deliver(&mut self, buffer: BytesMut) {
        let read = buffer.len() - HEADROOM;
        self.down_pause.until(self.meter.received(read));
        if read < WORTH_KEEPING {
            let copy = BytesMut::from(&buffer[..]);
            pool::give(buffer);
            self.stream.send(copy);
        } else {
            self.stream.send(buffer);
        }
    }

    fn poll_discard(&mut self, cx: &mut Context<'_>) -> bool {
        let mut buffer = empty_buffer();
        let mut space = (&mut buffer).limit(CHUNK);
        let read = poll_read_buf(Pin::new(&mut self.socket), cx, &mut space);
        pool::give(buffer);
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

fn empty_buffer() -> BytesMut {
    let mut buffer = pool::take();
    buffer.put_bytes(0, HEADROOM);
    buffer
}

/// What a failed socket means for the stream.
#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn broken(error: io::Error) -> End {
    let refused = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    End::Failed(if refused { StreamCode::Refused } else { StreamCode::Unreachable })
}

#[cfg(test)]
mod tests;
