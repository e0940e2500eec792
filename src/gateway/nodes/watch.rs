use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use ::shadowsocks::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::health::{Health, Limits, StreamId};
use crate::gateway::egress::Attempt;
use crate::net::dial::Dialer;
use crate::net::tunnel::ResetOnClose;
use crate::shadowsocks::{NodeStream, reach};

/// How long a process may take to close all that it has.
const DYING: Duration = Duration::from_millis(10);

/// A node's health, and those who wait for it.
pub(super) struct NodeMonitor {
    pub(super) dialer: Dialer,
    state: Mutex<State>,
    wake: Arc<Notify>,
    up: watch::Sender<bool>,
    /// When the last look at the node after a stream's end began, and what it found.
    looked: tokio::sync::Mutex<Option<(Instant, Found)>>,
}

struct State {
    health: Health<CancellationToken>,
    /// When the prober will look here by itself.
    armed: Option<Instant>,
}

impl NodeMonitor {
    pub(super) fn new(limits: Limits, wake: Arc<Notify>, dialer: Dialer) -> Self {
        let health = Health::new(limits, Instant::now());
        Self {
            dialer,
            state: Mutex::new(State { health, armed: None }),
            wake,
            up: watch::Sender::new(true),
            looked: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets something happen to the node, ends the streams that have to end, and wakes the prober if it would be late.
    pub(super) fn act<T>(&self, action: impl FnOnce(&mut Health<CancellationToken>, Instant) -> T) -> T {
        let mut state = self.state();
        let result = action(&mut state.health, Instant::now());
        for stream in state.health.take_ended() {
            stream.cancel();
        }
        self.up.send_if_modified(|up| std::mem::replace(up, state.health.is_up()) != state.health.is_up());
        let due = state.health.poll_timeout();
        if due.is_some_and(|due| state.armed.is_none_or(|armed| due < armed)) {
            state.armed = due;
            self.wake.notify_one();
        }
        result
    }

    /// Whether a probe is to be made now, and when to look again.
    pub(super) fn turn(&self) -> (bool, Option<Instant>) {
        let is_due = self.act(|health, now| {
            health.handle_timeout(now);
            health.begin_probe(now)
        });
        let mut state = self.state();
        state.armed = state.health.poll_timeout();
        (is_due, state.armed)
    }

    pub(super) fn is_up(&self) -> bool {
        self.state().health.is_up()
    }

    /// Resolves once the node is down, after a time in which it was up.
    pub(super) async fn went_down(&self) {
        let mut up = self.up.subscribe();
        if up.wait_for(|up| *up).await.is_err() || up.wait_for(|up| !*up).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Registers a stream that is about to be dialled; `None` if the node is down and another stream is trying it.
    pub(super) fn begin(self: &Arc<Self>) -> Option<StreamGuard> {
        let doomed = CancellationToken::new();
        let id = self.act(|health, now| health.opened(doomed.clone(), now))?;
        Some(StreamGuard { watch: Arc::clone(self), id, doomed })
    }

    /// What is found of the node when it is connected to after a moment; what takes too long to say is no bad sign. Those
    /// who ask at the same time look together.
    async fn look(&self, after: Instant, config: &ServerConfig, within: Duration) -> Found {
        let looking = async {
            let mut looked = self.looked.lock().await;
            if let Some((at, found)) = *looked
                && at >= after
            {
                return found;
            }
            let at = Instant::now();
            let found = Found::of(&lasts(&self.dialer, config).await);
            *looked = Some((at, found));
            found
        };
        tokio::time::timeout(within, looking).await.unwrap_or(Found::There)
    }
}

/// What a look at a node has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    There,
    /// It took the connection and reset it, as a process that dies or has too much to do.
    Shaken,
    /// Nothing listens at its address.
    Gone,
}

impl Found {
    /// What this host lacks says nothing of the node.
    fn of(reached: &io::Result<()>) -> Self {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
        match reached.as_ref().map_err(io::Error::kind) {
            Err(ConnectionReset) => Self::Shaken,
            Err(ConnectionRefused | HostUnreachable | NetworkUnreachable) => Self::Gone,
            Ok(()) | Err(_) => Self::There,
        }
    }
}

/// A stream as its node's health knows it.
pub(crate) struct StreamGuard {
    watch: Arc<NodeMonitor>,
    id: StreamId,
    doomed: CancellationToken,
}

impl StreamGuard {
    /// Resolves once the stream has to end because its node is down.
    pub(crate) fn doomed(&self) -> CancellationToken {
        self.doomed.clone()
    }

    /// The node could not be connected to, by no fault of this host.
    pub(super) fn failed(&self, error: &io::Error) {
        if !is_local(error) {
            self.watch.act(Health::unreachable);
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.watch.act(|health, _| health.closed(self.id));
    }
}

/// Whether a connection failed for want of something on this host: descriptors, ports, memory.
fn is_local(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let local = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| local.iter().any(|errno| errno.raw_os_error() == code))
}

/// Connects, and waits a little for a reset: a dying process closes what it listens on last.
async fn lasts(dialer: &Dialer, config: &ServerConfig) -> io::Result<()> {
    let mut socket = reach(dialer, config).await?;
    match tokio::time::timeout(DYING, socket.read(&mut [0; 1])).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

type Looking = Pin<Box<dyn Future<Output = Found> + Send>>;

/// A stream through a node that tells its node's health of its first bytes, and passes an end on only if the node is
/// still there: a node that dies ends its streams as if their destinations had.
pub(crate) struct MonitoredStream {
    stream: NodeStream,
    guard: StreamGuard,
    config: Arc<ServerConfig>,
    /// How long an end waits; zero once that is over.
    end_check: Duration,
    end: Option<End>,
    /// When first bytes were sent, unless an answer was there before.
    sent: Option<Instant>,
    heard: bool,
    ended: bool,
    /// Whom to tell if the destination gives nothing.
    attempt: Option<Attempt>,
}

/// How the stream ended, if its node is still there.
struct End {
    ended: io::Result<()>,
    looking: Looking,
}

impl MonitoredStream {
    /// A stream whose end waits for a look at its node, at most so long.
    pub(super) fn new(stream: NodeStream, guard: StreamGuard, config: Arc<ServerConfig>, end_check: Duration) -> Self {
        Self { stream, guard, config, end_check, end: None, sent: None, heard: false, ended: false, attempt: None }
    }

    /// Whom to tell if the destination gives nothing.
    pub(crate) fn attempts(&mut self, attempt: Attempt) {
        self.attempt = Some(attempt);
    }

    /// Cancelled once the stream has to end because its node is down; it gives nothing more then.
    pub(crate) fn doomed(&self) -> CancellationToken {
        self.guard.doomed()
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, ended: io::Result<()>) -> Poll<io::Result<()>> {
        if self.end_check.is_zero() {
            self.note_silence();
            return Poll::Ready(ended);
        }
        let (watch, config) = (Arc::clone(&self.guard.watch), Arc::clone(&self.config));
        let (at, within) = (Instant::now(), std::mem::take(&mut self.end_check));
        let looking = Box::pin(async move { watch.look(at, &config, within).await });
        self.end = Some(End { ended, looking });
        self.poll_look(cx)
    }

    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(end) = &mut self.end else { return Poll::Pending };
        if self.guard.doomed.is_cancelled() {
            return Poll::Pending;
        }
        match ready!(end.looking.as_mut().poll(cx)) {
            Found::There => {
                self.note_silence();
                return Poll::Ready(self.end.take().map_or(Ok(()), |end| end.ended));
            }
            Found::Shaken => self.guard.watch.act(|health, now| health.probe_within(Duration::ZERO, now)),
            Found::Gone => self.guard.watch.act(Health::unreachable),
        }
        self.guard.doomed.cancel();
        Poll::Pending
    }

    /// Notes that the destination gave nothing, before anybody hears of the end: whoever tries again goes elsewhere.
    fn note_silence(&mut self) {
        if self.heard || self.guard.doomed.is_cancelled() {
            return;
        }
        if let (Some(sent), Some(attempt)) = (self.sent, self.attempt.take()) {
            attempt.failed(sent.elapsed(), self.ended);
        }
    }
}

impl Drop for MonitoredStream {
    fn drop(&mut self) {
        self.note_silence();
    }
}

impl ResetOnClose for MonitoredStream {
    fn reset_on_close(&self, reset: bool) {
        self.stream.reset_on_close(reset);
    }
}

impl AsyncRead for MonitoredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.end.is_some() {
            return this.poll_look(cx);
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        if read.is_err() || buf.filled().len() == before {
            this.ended = true;
            return this.poll_end(cx, read);
        }
        if !this.heard {
            this.heard = true;
            this.guard.watch.act(|health, now| health.heard(this.guard.id, now));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MonitoredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        if this.sent.is_none() && !this.heard && written > 0 {
            this.sent = Some(Instant::now());
            this.guard.watch.act(|health, now| health.sent(this.guard.id, now));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
