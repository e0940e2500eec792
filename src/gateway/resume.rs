//! Sessions that go on over another connection once theirs is lost (docs/04, "Resume").

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;
use uuid::Uuid;

use super::session::Session;
use super::upgrade::Agreement;
use super::{GatewayState, admission};
use crate::config;
use crate::digest::fresh_token;
use crate::frame::{Hello, Resumable, Token};
use crate::mux::MemoryBudget;
use crate::net::tunnel::Tunnel;

/// The tickets of a session: the last one, and the one before until the client has shown that it has the last.
#[derive(Default)]
pub(super) struct Tickets {
    last: Option<String>,
    before: Option<String>,
}

/// Who may go on, and who waits for it.
pub(super) struct Resumptions {
    config: config::Resume,
    kept: Arc<MemoryBudget>,
    sessions: Mutex<HashMap<String, Weak<Session>>>,
    /// Sessions without a connection, in the order in which they lost it.
    held: Mutex<(u64, BTreeMap<u64, Tunnel>)>,
}

/// A session that is served: when this is dropped its tickets are void, and what is left of it ends.
pub(super) struct Served<'a>(pub(super) &'a Session);

/// A session without a connection.
pub(super) struct Held<'a> {
    resumptions: &'a Resumptions,
    number: u64,
    /// When it ends.
    pub(super) until: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resumptions {
    pub(super) fn new(config: config::Resume, kept: Arc<MemoryBudget>) -> Self {
        Self { config, kept, sessions: Mutex::default(), held: Mutex::default() }
    }

    /// Another ticket for a session, if sessions are held at all; the one that was shown is good until the client has it.
    pub(super) fn issue(&self, session: &Arc<Session>, shown: Option<&Token>) -> Option<Resumable> {
        if self.config.hold.is_zero() {
            return None;
        }
        let ticket =
            fresh_token().inspect_err(|reason| tracing::error!(%reason, "failed to issue a resumption ticket")).ok()?;
        let mut tickets = lock(&session.tickets);
        let mut sessions = lock(&self.sessions);
        let known = [tickets.last.take(), tickets.before.take()].into_iter().flatten();
        let (shown, spent): (Vec<_>, Vec<_>) =
            known.partition(|known| shown.is_some_and(|shown| shown.expose() == known));
        for spent in spent {
            sessions.remove(&spent);
        }
        sessions.insert(ticket.clone(), Arc::downgrade(session));
        *tickets = Tickets { last: Some(ticket.clone()), before: shown.into_iter().next() };
        drop((tickets, sessions));
        Some(Resumable {
            ticket: Token::from(ticket),
            hold: self.config.hold.as_secs(),
            resumed: false,
            opened: 0,
            streams: Vec::new(),
        })
    }

    /// The session of a ticket that is not spent.
    fn find(&self, ticket: &str) -> Option<Arc<Session>> {
        let session = lock(&self.sessions).get(ticket)?.upgrade()?;
        let is_last = lock(&session.tickets).last.as_deref() == Some(ticket);
        (is_last || !session.account.tunnel().is_confirmed()).then_some(session)
    }

    /// A session is over.
    fn forget(&self, session: &Session) {
        let Tickets { last, before } = std::mem::take(&mut *lock(&session.tickets));
        let mut sessions = lock(&self.sessions);
        for ticket in [last, before].into_iter().flatten() {
            sessions.remove(&ticket);
        }
    }

    /// A session has lost its connection; the one that was held longest makes room if there are too many, or too much is
    /// kept.
    pub(super) fn hold(&self, session: &Session) -> Held<'_> {
        let (number, oldest) = {
            let mut held = lock(&self.held);
            held.0 += 1;
            let number = held.0;
            held.1.insert(number, session.account.tunnel().clone());
            let is_much = held.1.len() > self.config.max_held || self.kept.excess() > 0;
            (number, if is_much { held.1.pop_first() } else { None })
        };
        if let Some((_, oldest)) = oldest {
            oldest.give_up();
        }
        Held { resumptions: self, number, until: Instant::now() + self.config.hold }
    }

    /// Sessions without a connection now.
    pub(super) fn held(&self) -> usize {
        lock(&self.held).1.len()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.resumptions.held).1.remove(&self.number);
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.0.account.tunnel().close(None, "");
        self.0.state.resumptions.forget(self.0);
    }
}

/// Goes on with the session that a `hello` names, over the connection that it came by; false if it is another device's, is
/// over, or was never here, or if the device says hello too often. How old the token is does not matter.
pub(super) fn take_up(state: &GatewayState, tunnel: &Tunnel, hello: &Hello, agreement: Agreement) -> bool {
    let resumed = try_take_up(state, tunnel, hello, agreement).is_some();
    state.metrics.resumed.with_label_values(&[if resumed { "resumed" } else { "unknown" }]).inc();
    resumed
}

fn try_take_up(
    state: &GatewayState,
    tunnel: &Tunnel,
    hello: &Hello,
    Agreement { encoding, bearer }: Agreement,
) -> Option<()> {
    let resume = hello.resume.as_ref()?;
    let device = state.keys.owner(hello.access_token.expose())?;
    let is_device = |id: Uuid| id == device;
    if !hello.device_id.parse().is_ok_and(is_device) || !bearer.is_none_or(is_device) {
        return None;
    }
    let session = state.resumptions.find(resume.ticket.expose())?;
    if session.device != device || session.encoding != encoding || session.region != hello.region {
        return None;
    }
    if !state.hellos.allow((device, false), std::time::Instant::now()) {
        return None;
    }
    let resumable = state.resumptions.issue(&session, Some(&resume.ticket))?;
    let ok = admission::consent(state, tunnel, hello, session.id, encoding, Some(resumable));
    if !tunnel.take_up(session.account.tunnel(), resume, ok) {
        if session.account.tunnel().is_gone() {
            state.resumptions.forget(&session);
        }
        return None;
    }
    tracing::info!(session = %session.id, "session resumed");
    Some(())
}
