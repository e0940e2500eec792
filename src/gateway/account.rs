//! What is known of one open session, and what follows at once from what it moves: its lease, notices, rate and end.

mod counters;
mod lease;
mod meter;
mod notices;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::circuit_breaker::CircuitBreaker;
use super::control_clock::ControlClock;
use super::journal::JournalEntry;
use super::metrics::GatewayMetrics;
use super::offline::OutageAllowance;
use super::rate_limiter::RateLimiter;
use super::report_queue::ReportQueue;
use crate::api::{Lease, Verdict};
use crate::frame::{SessionCode, Token};
use crate::mux::{MemoryBudget, Pacer};
use crate::net::tunnel::Tunnel;

use counters::Counters;
use lease::LeaseState;
use notices::UserNotices;

/// What a session begins with.
pub(crate) struct Opening {
    pub(crate) session: Uuid,
    pub(crate) device: Uuid,
    pub(crate) user: Uuid,
    /// The control plane has let it in.
    pub(crate) known: bool,
    pub(crate) token: Token,
    /// Bytes left in this period; any number without a limit.
    pub(crate) remaining: Option<u64>,
    /// Bytes of the whole period.
    pub(crate) limit: Option<u64>,
    /// When the subscription ends.
    pub(crate) valid_until: OffsetDateTime,
    /// How long before the user is told.
    pub(crate) expiry_before: Duration,
    /// What the session may move; any number without one.
    pub(crate) lease: Option<Lease>,
    /// When the control plane was asked for it.
    pub(crate) asked_at: Instant,
    /// What the device may move while the control plane is away.
    pub(crate) allowance: Arc<OutageAllowance>,
    pub(crate) breaker: Arc<CircuitBreaker>,
    pub(crate) clock: Arc<ControlClock>,
    pub(crate) rate_limiter: Arc<RateLimiter>,
    pub(crate) quota_percent: Vec<u8>,
    pub(crate) report_queue: Arc<ReportQueue>,
    /// The user's part of the memory for bytes that wait.
    pub(crate) share: Arc<MemoryBudget>,
    pub(crate) tunnel: Tunnel,
}

/// One open session.
pub(crate) struct Account {
    session: Uuid,
    device: Uuid,
    user: Uuid,
    known: bool,
    token: Token,
    started_at: OffsetDateTime,
    valid_until: OffsetDateTime,
    counters: Counters,
    lease: LeaseState,
    notices: UserNotices,
    cut: OnceLock<SessionCode>,
    breaker: Arc<CircuitBreaker>,
    clock: Arc<ControlClock>,
    rate_limiter: Arc<RateLimiter>,
    report_queue: Arc<ReportQueue>,
    share: Arc<MemoryBudget>,
    tunnel: Tunnel,
}

impl Account {
    pub(crate) fn new(opening: Opening, metrics: &GatewayMetrics) -> Self {
        let counters = Counters::new(metrics);
        let lease = LeaseState::new(opening.lease, opening.asked_at, opening.allowance, &counters);
        if !opening.known {
            lease.expect_answer();
        }
        let notices = UserNotices::new(opening.quota_percent, opening.expiry_before, opening.limit, opening.remaining);
        Self {
            session: opening.session,
            device: opening.device,
            user: opening.user,
            known: opening.known,
            token: opening.token,
            started_at: opening.clock.now(),
            valid_until: opening.valid_until,
            counters,
            lease,
            notices,
            cut: OnceLock::new(),
            breaker: opening.breaker,
            clock: opening.clock,
            rate_limiter: opening.rate_limiter,
            report_queue: opening.report_queue,
            share: opening.share,
            tunnel: opening.tunnel,
        }
    }

    pub(crate) fn session(&self) -> Uuid {
        self.session
    }

    pub(crate) fn device(&self) -> Uuid {
        self.device
    }

    pub(crate) fn user(&self) -> Uuid {
        self.user
    }

    pub(crate) fn share(&self) -> &Arc<MemoryBudget> {
        &self.share
    }

    pub(crate) fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// Whether the control plane has to know the session.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// When the subscription ends, as it was at the beginning.
    pub(crate) fn valid_until(&self) -> OffsetDateTime {
        self.valid_until
    }

    /// Bytes came that move nothing; gives when more may.
    pub(crate) fn unbilled(&self, bytes: usize) -> Option<Instant> {
        self.rate_limiter.up(bytes)
    }

    /// Slows down what is not billed.
    pub(crate) fn pacer(&self) -> Arc<dyn Pacer> {
        Arc::clone(&self.rate_limiter) as Arc<dyn Pacer>
    }

    /// How long the client has left a ping without an answer.
    pub(crate) fn silence(&self) -> Duration {
        if self.tunnel.is_held() {
            return Duration::MAX;
        }
        self.tunnel.overdue()
    }

    /// Applies the control plane's verdict on what was reported.
    pub(crate) fn apply_verdict(&self, asked_at: Instant, reported: u64, verdict: &Verdict) {
        self.counters.set_reported(reported);
        if !verdict.go_on {
            let code = verdict.code.as_deref().and_then(SessionCode::from_name);
            self.cut(code.unwrap_or(SessionCode::SessionKilled));
            return;
        }
        self.lease.grant(verdict.lease, asked_at, reported, &self.counters);
        self.lease.refill_allowance();
        self.rate_limiter.set(verdict.rate_limit_mbps);
        let spent = self.counters.spent();
        self.notices.update(reported, verdict.remaining_bytes, verdict.traffic_limit_bytes, spent);
        self.remind(verdict.valid_until.unwrap_or(self.valid_until));
        self.enforce();
    }

    /// Reminds the user once that the subscription ends soon.
    pub(crate) fn remind(&self, valid_until: OffsetDateTime) {
        self.notices.remind(valid_until, self.clock.now(), &self.tunnel);
    }

    /// What the gateway holds of the lease, 0 without a limit; a regular report gives back what is not likely to be used.
    pub(crate) fn holding(&self, periodic: bool) -> u64 {
        self.lease.holding(periodic, &self.counters)
    }

    /// What was given back was not taken.
    pub(crate) fn take_back(&self, held: u64) {
        self.lease.take_back(held);
    }

    /// Bytes in all that may be moved.
    pub(crate) fn held(&self) -> u64 {
        self.lease.held()
    }

    /// The control plane is away: a session that wants to move something and has no lease lives on its device's allowance,
    /// and ends with it.
    pub(crate) fn open_up(&self) {
        if !self.lease.bridge(&self.counters) {
            self.cut(SessionCode::ControlUnavailable);
        }
    }

    /// The session is over: what it took of its device's allowance and did not move is the device's again.
    pub(crate) fn return_allowance(&self) {
        self.lease.return_allowance(&self.counters);
    }

    fn is_out(&self) -> bool {
        self.lease.is_out(self.counters.spent())
    }

    /// Whether the session wants to move more than it may.
    pub(crate) fn asks(&self) -> bool {
        self.lease.asks()
    }

    fn ask(&self) {
        if self.lease.ask() {
            self.report_queue.add(self.session);
        }
    }

    /// Asks for more, or notifies the user, if it is time; called for every chunk that moved.
    pub(crate) fn enforce(&self) {
        let spent = self.counters.spent();
        if self.lease.is_renewal_due(spent) {
            self.ask();
        }
        if self.notices.is_due(spent) {
            self.notices.notify(spent, &self.tunnel);
        }
    }

    /// Bytes that the control plane has not heard of.
    pub(super) fn unreported(&self) -> u64 {
        self.counters.spent().saturating_sub(self.counters.reported())
    }

    /// Bytes that a crash would lose now.
    pub(super) fn unflushed(&self) -> u64 {
        self.counters.unflushed()
    }

    /// Whether the journal has never had the session.
    pub(super) fn is_unwritten(&self) -> bool {
        self.counters.is_unwritten()
    }

    /// Whether the journal has these counters.
    pub(super) fn has_journaled(&self, entry: &JournalEntry) -> bool {
        self.counters.is_journaled(entry.up + entry.down)
    }

    /// The journal has these counters.
    pub(super) fn journaled(&self, entry: &JournalEntry) {
        self.counters.set_journaled(entry.up + entry.down);
    }

    /// Ends the session with a code; only the first counts.
    pub(crate) fn cut(&self, code: SessionCode) {
        if self.cut.set(code).is_ok() {
            self.tunnel.close(Some(code), "");
        }
    }

    /// Why the gateway ended the session, if it did.
    pub(crate) fn cut_code(&self) -> Option<SessionCode> {
        self.cut.get().copied()
    }

    pub(super) fn entry(&self, ended_at: Option<OffsetDateTime>) -> JournalEntry {
        JournalEntry {
            session: self.session,
            device: self.device,
            up: self.counters.up(),
            down: self.counters.down(),
            started_at: self.started_at,
            ended_at,
        }
    }
}

#[cfg(test)]
mod tests;
