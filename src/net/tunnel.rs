//! A tunnel: a mux session over a connection, shared by its driver, its owner and its streams (docs/04).

mod batch;
mod carrier;
mod driver;
mod inbox;
mod relay;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::digest::fresh_number;
use crate::frame::{
    Encoding, Features, Hello, HelloOk, Notice, Padding, Resume, SessionCode, StreamCode, Target, Token,
};
use crate::mux::{Event, Limits, MemoryBudget, OpenError, Pacer, Role, Session, StreamKey};
use crate::net::buffer_pool::BufferPool;

pub use batch::{Batch, Piece};
pub use carrier::Carrier;
pub use driver::{Driver, Ended, Framing, Transport};
pub use inbox::Inbox;
pub use relay::{Meter, Relay, ResetOnClose, Timeouts};
pub use stream::TunnelStream;

#[cfg(test)]
pub(crate) use driver::tests as testing;

/// A handle to a tunnel; clones share it.
#[derive(Clone, Debug)]
pub struct Tunnel(Arc<Mutex<State>>);

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a tunnel")]
struct State {
    session: Session,
    streams: HashMap<StreamKey, Waker>,
    events: VecDeque<Event>,
    owner: Option<Waker>,
    driver: Option<Waker>,
    driver_paused: bool,
    /// The socket takes nothing: having more to send is no reason to wake the driver.
    driver_blocked: bool,
    /// Which of the session's drivers moves its bytes.
    number: u32,
    /// None does: the connection was lost, and another one may take the session up.
    held: bool,
    /// The session that this one's connection takes up, and the driver's number there.
    successor: Option<(Tunnel, u32)>,
    gone: bool,
}

impl Tunnel {
    /// A tunnel at its start; [`Driver`] moves its bytes.
    pub fn new(role: Role, encoding: Encoding, limits: Arc<Limits>) -> Self {
        Self(Arc::new(Mutex::new(State {
            session: Session::new(role, encoding, limits, fresh_number(), Instant::now()),
            streams: HashMap::new(),
            events: VecDeque::new(),
            owner: None,
            driver: None,
            driver_paused: false,
            driver_blocked: false,
            number: 0,
            held: false,
            successor: None,
            gone: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for the driver that is at work.
    fn attached(&self, number: u32) -> Result<MutexGuard<'_, State>, Ended> {
        let state = self.state();
        if state.number == number { Ok(state) } else { Err(Ended::Replaced) }
    }

    fn act<T>(&self, action: impl FnOnce(&mut Session) -> T) -> T {
        let mut state = self.state();
        let result = action(&mut state.session);
        state.flush_events();
        result
    }

    /// The next event for the session's owner; `None` once the connection is gone.
    pub async fn next_event(&self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.state();
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if state.gone {
            return Poll::Ready(None);
        }
        state.owner = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Sends the client's `hello`, padded by a scheme.
    pub fn hello(&self, hello: Hello, padding: &Padding) {
        self.act(|session| {
            session.pad(padding);
            session.hello(hello);
        });
    }

    /// Asks to go on with the session over another connection (client); the next driver will move its bytes. What the last one
    /// brought and nobody has heard is forgotten.
    pub fn resume_with(&self, hello: Hello, ticket: &Token, padding: &Padding) {
        let mut state = self.state();
        state.events.clear();
        state.replace_driver();
        state.session.pad(padding);
        state.session.resume_with(hello, ticket, Instant::now());
    }

    /// Takes up a session, with what the client has of it, over this tunnel's connection (gateway); false if it cannot be.
    pub fn take_up(&self, session: &Self, theirs: &Resume, ok: HelloOk) -> bool {
        let number = {
            let mut state = session.state();
            if state.gone || !state.session.is_resumable() {
                return false;
            }
            state.session.resume(theirs, ok, Instant::now());
            state.flush_events();
            state.replace_driver()
        };
        let mut own = self.state();
        if own.gone {
            session.abandon(number);
        } else {
            own.successor = Some((session.clone(), number));
            own.wake_driver();
        }
        true
    }

    /// Whether a session with these features can be resumed.
    pub fn can_resume(&self, features: Features) -> bool {
        self.state().session.can_resume(features)
    }

    /// Whether the session is over, and its connection.
    pub fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Whether the connection was lost and the session waits for another one.
    pub fn is_held(&self) -> bool {
        self.state().held
    }

    /// Whether the peer has shown that it knows of the connection that the session is on.
    pub fn is_confirmed(&self) -> bool {
        self.state().session.is_confirmed()
    }

    /// Ends the session if it is held.
    pub fn give_up(&self) {
        let mut state = self.state();
        if state.held {
            state.connection_gone();
        }
    }

    /// Leaves the connection, as if it were lost; the owner, who knows, is not told.
    pub fn leave(&self) {
        let mut state = self.state();
        if !state.gone && state.session.is_resumable() {
            state.replace_driver();
            state.held = true;
        }
    }

    /// A driver ends without a word.
    fn abandon(&self, number: u32) {
        let mut state = self.state();
        if !state.gone && !state.lose(number) {
            state.connection_gone();
        }
    }

    /// Pads the messages still to come by another scheme.
    pub fn pad(&self, padding: &Padding) {
        self.act(|session| session.pad(padding));
    }

    /// Counts what the session holds for an account, too.
    pub fn charge(&self, account: Arc<MemoryBudget>) {
        self.state().session.charge(account);
    }

    /// Paces what the peer sends without moving anything.
    pub fn pace(&self, pacer: Arc<dyn Pacer>) {
        self.state().session.pace(pacer);
    }

    /// Streams whose destination has not taken what waited for it within a time, and how many bytes wait now.
    pub fn stalled_streams(&self, after: Duration) -> Vec<(StreamKey, u64)> {
        self.state().session.stalled(after, Instant::now()).collect()
    }

    /// Ends both directions of a stream with a reason.
    pub fn reset_stream(&self, key: StreamKey, code: StreamCode) {
        self.act(|session| session.reset(key, code));
    }

    /// Consents to a `hello`.
    pub fn accept(&self, ok: HelloOk) {
        self.act(|session| session.accept(ok));
    }

    /// Ends the session, with a code for the peer if there is one.
    pub fn close(&self, code: Option<SessionCode>, message: &str) {
        self.act(|session| session.close(code, message, None));
    }

    /// Refuses the session for now.
    pub fn refuse(&self, code: SessionCode, message: &str, retry_after: Duration) {
        self.act(|session| session.close(Some(code), message, Some(retry_after)));
    }

    /// Tells the peer's user something, if the peer understands it.
    pub fn notice(&self, notice: Notice) {
        self.act(|session| session.notice(notice));
    }

    /// After how much idleness this side pings, and after how much silence it gives up.
    pub fn keepalive(&self) -> (Duration, Duration) {
        self.state().session.keepalive()
    }

    /// How long the peer has left a ping without an answer.
    pub fn overdue(&self) -> Duration {
        self.state().session.overdue(Instant::now())
    }

    /// Tells the peer to go on elsewhere.
    pub fn drain(&self, reconnect_in: Duration) {
        self.act(|session| session.drain(reconnect_in));
    }

    /// Refuses new streams from now on.
    pub fn refuse_streams(&self) {
        self.act(Session::refuse_streams);
    }

    /// Opens a stream (client).
    pub fn open(&self, target: &Target, payload: Bytes) -> Result<TunnelStream, OpenError> {
        let key = self.act(|session| session.open(target, payload, Instant::now()))?;
        Ok(TunnelStream::new(self.clone(), key))
    }

    /// Opens a stream for datagrams (client).
    pub fn open_udp(&self) -> Result<TunnelStream, OpenError> {
        let key = self.act(|session| session.open_udp(Instant::now()))?;
        Ok(TunnelStream::new(self.clone(), key))
    }

    /// The stream of an [`Event::Opened`].
    pub fn stream(&self, key: StreamKey) -> TunnelStream {
        TunnelStream::new(self.clone(), key)
    }

    /// Streams open now.
    pub fn stream_count(&self) -> usize {
        self.state().session.stream_count()
    }

    /// Whether streams may be opened: behind `hello` (v2) or its answer (v1).
    pub fn is_open(&self) -> bool {
        let state = self.state();
        !state.gone && !state.held && state.session.may_open()
    }
}

impl State {
    /// Hands out what an action on the session brought about, also to the driver.
    fn flush_events(&mut self) {
        self.deliver_events();
        if self.held && self.session.is_closed() {
            self.held = false;
            return self.connection_gone();
        }
        let resumed = self.driver_paused && !self.session.is_paused();
        let has_output = self.session.is_closed() || self.session.wants_transmit() && !self.driver_blocked;
        if (resumed || has_output)
            && let Some(waker) = self.driver.take()
        {
            waker.wake();
        }
    }

    /// Hands out what the driver's own action brought about.
    fn deliver_events(&mut self) {
        for buffer in self.session.take_free() {
            if let Ok(mut buffer) = buffer.try_into_mut()
                && buffer.try_reclaim(BufferPool::SIZE)
            {
                BufferPool::give(buffer);
            }
        }
        let mut for_owner = false;
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Wake(key) => {
                    if let Some(waker) = self.streams.remove(&key) {
                        waker.wake();
                    }
                }
                Event::WakeAll => self.wake_streams(),
                Event::Hello(_)
                | Event::Accepted(_)
                | Event::Opened { .. }
                | Event::GoingAway { .. }
                | Event::Notice(_)
                | Event::Held
                | Event::Resumed
                | Event::Ended { .. } => {
                    self.events.push_back(event);
                    for_owner = true;
                }
            }
        }
        if for_owner && let Some(waker) = self.owner.take() {
            waker.wake();
        }
    }

    fn wake_streams(&mut self) {
        for (_, waker) in self.streams.drain() {
            waker.wake();
        }
    }

    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// The driver at work is not any more; gives the number of the next.
    fn replace_driver(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.held = false;
        self.driver_paused = false;
        self.driver_blocked = false;
        self.wake_driver();
        self.number
    }

    /// A driver's connection is lost; whether that does not end the session.
    fn lose(&mut self, number: u32) -> bool {
        if self.number != number {
            return true;
        }
        if self.gone || !self.session.is_resumable() {
            return false;
        }
        if !self.held {
            self.held = true;
            self.driver = None;
            self.events.push_back(Event::Held);
            if let Some(waker) = self.owner.take() {
                waker.wake();
            }
        }
        true
    }

    fn connection_gone(&mut self) {
        self.session.close(None, "", None);
        self.gone = true;
        self.flush_events();
        self.wake_streams();
        if let Some(waker) = self.owner.take() {
            waker.wake();
        }
    }
}
