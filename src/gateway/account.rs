//! The counters of one session, and what follows from them at once: the lease, notices, the rate, the cut.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use uuid::Uuid;

use super::breaker::Standing;
use super::clock::Clock;
use super::journal::JournalEntry;
use super::metrics::GatewayMetrics;
use super::offline::OutageAllowance;
use super::rate_limiter::RateLimiter;
use super::reach::Reach;
use super::report_queue::ReportQueue;
use crate::api::{Lease, Verdict};
use crate::frame::{Notice, SessionCode, Token};
use crate::mux::{MemoryBudget, Pacer};
use crate::net::tunnel::{Meter, Tunnel};

/// What is moved at once where no rate is lower.
const CHUNK_LIMIT: usize = crate::net::buffered::CHUNK;
/// How long a stream waits for a lease before it looks again, and while others hold what is left.
const LEASE_UNDER_WAY: Duration = Duration::from_millis(5);
const LEASE_ELSEWHERE: Duration = Duration::from_millis(250);
/// A session keeps so many times what it moved since the last report.
const AHEAD: u64 = 4;
/// Pings are sent up to so much later than `ping_after`.
const PING_JITTER: f64 = 1.2;
const NEVER: u64 = u64::MAX;

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
    pub(crate) reach: Arc<Reach>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) rate_limiter: Arc<RateLimiter>,
    pub(crate) quota_percent: Vec<u8>,
    pub(crate) report_queue: Arc<ReportQueue>,
    /// The user's part of the memory for bytes that wait.
    pub(crate) share: Arc<MemoryBudget>,
    pub(crate) tunnel: Tunnel,
}

/// The counters of one session: billed payload bytes, cumulative.
pub(crate) struct Account {
    opening: Opening,
    started_at: OffsetDateTime,
    up: AtomicU64,
    down: AtomicU64,
    /// Bytes in all that may be moved.
    allowed: AtomicU64,
    /// When that is over, in milliseconds since the control plane was first asked.
    lease_ends: AtomicU64,
    /// What is spent when more is asked for.
    renew_at: AtomicU64,
    asked: AtomicBool,
    /// When that was, in milliseconds since the control plane was first asked.
    waiting_since: AtomicU64,
    /// Bytes of the device's allowance that the session may move now, and who takes more.
    bridged: Mutex<u64>,
    /// Others hold what is left.
    waits: AtomicBool,
    /// Bytes of the whole period.
    limit: AtomicU64,
    /// The end that the user was told of.
    reminded: Mutex<Option<OffsetDateTime>>,
    /// What is spent when the period's traffic is used up, if nobody else uses any.
    ceiling: AtomicU64,
    /// What is spent when the user is told next.
    notice_at: AtomicU64,
    notified: Mutex<usize>,
    pub(super) kept: AtomicU64,
    reported: AtomicU64,
    cut: OnceLock<SessionCode>,
    total_up: IntCounter,
    total_down: IntCounter,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

impl Account {
    pub(crate) fn new(opening: Opening, metrics: &GatewayMetrics) -> Self {
        let account = Self {
            started_at: opening.clock.now(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            allowed: AtomicU64::new(NEVER),
            lease_ends: AtomicU64::new(NEVER),
            renew_at: AtomicU64::new(NEVER),
            asked: AtomicBool::new(false),
            waiting_since: AtomicU64::new(0),
            bridged: Mutex::new(0),
            waits: AtomicBool::new(false),
            limit: AtomicU64::new(opening.limit.unwrap_or(NEVER)),
            reminded: Mutex::new(None),
            ceiling: AtomicU64::new(opening.remaining.unwrap_or(NEVER)),
            notice_at: AtomicU64::new(0),
            notified: Mutex::new(0),
            kept: AtomicU64::new(NEVER),
            reported: AtomicU64::new(0),
            cut: OnceLock::new(),
            total_up: metrics.bytes.with_label_values(&["up"]),
            total_down: metrics.bytes.with_label_values(&["down"]),
            opening,
        };
        account.borrow(0, account.opening.lease, account.opening.asked_at);
        account.waits.fetch_and(account.opening.known, Ordering::Relaxed);
        account.plan_notice(0);
        account
    }

    pub(crate) fn session(&self) -> Uuid {
        self.opening.session
    }

    pub(crate) fn device(&self) -> Uuid {
        self.opening.device
    }

    pub(crate) fn user(&self) -> Uuid {
        self.opening.user
    }

    pub(crate) fn share(&self) -> &Arc<MemoryBudget> {
        &self.opening.share
    }

    /// Bytes came that move nothing; gives when more may.
    pub(crate) fn unbilled(&self, bytes: usize) -> Option<Instant> {
        self.opening.rate_limiter.up(bytes)
    }

    /// Slows down what is not billed.
    pub(crate) fn pacer(&self) -> Arc<dyn Pacer> {
        Arc::clone(&self.opening.rate_limiter) as Arc<dyn Pacer>
    }

    pub(crate) fn tunnel(&self) -> &Tunnel {
        &self.opening.tunnel
    }

    /// Whether the control plane has to know the session.
    pub(crate) fn is_known(&self) -> bool {
        self.opening.known
    }

    pub(crate) fn token(&self) -> &Token {
        &self.opening.token
    }

    /// How long the client has left a ping without an answer.
    pub(crate) fn silence(&self) -> Duration {
        if self.opening.tunnel.is_held() {
            return Duration::MAX;
        }
        let (ping_after, _) = self.opening.tunnel.keepalive();
        self.opening.tunnel.silence().saturating_sub(ping_after.mul_f64(PING_JITTER))
    }

    /// Applies the control plane's word on what was reported.
    pub(crate) fn apply_verdict(&self, asked_at: Instant, reported: u64, verdict: &Verdict) {
        self.reported.store(reported, Ordering::Relaxed);
        if !verdict.go_on {
            let code = verdict.code.as_deref().and_then(SessionCode::from_name);
            self.cut(code.unwrap_or(SessionCode::SessionKilled));
            return;
        }
        let ceiling = verdict.remaining_bytes.map_or(NEVER, |left| reported.saturating_add(left));
        self.ceiling.store(ceiling, Ordering::Relaxed);
        self.borrow(reported, verdict.lease, asked_at);
        self.opening.allowance.refill();
        self.opening.rate_limiter.set(verdict.rate_limit_mbps);
        self.limit.store(verdict.traffic_limit_bytes.unwrap_or(NEVER), Ordering::Relaxed);
        let notified = {
            let mut notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
            *notified = (*notified).min(self.crossed(self.spent()));
            *notified
        };
        self.plan_notice(notified);
        self.remind(verdict.valid_until.unwrap_or(self.opening.valid_until));
        self.enforce();
    }

    /// Tells the user once that the subscription ends soon.
    pub(crate) fn remind(&self, valid_until: OffsetDateTime) {
        if valid_until - self.opening.clock.now() >= self.opening.expiry_before {
            return;
        }
        let mut reminded = self.reminded.lock().unwrap_or_else(PoisonError::into_inner);
        if *reminded != Some(valid_until)
            && let Ok(text) = valid_until.format(&Rfc3339)
        {
            self.opening.tunnel.notice(Notice::Expiry { valid_until: text });
            *reminded = Some(valid_until);
        }
    }

    /// When the subscription ends, as it was at the beginning.
    pub(crate) fn valid_until(&self) -> OffsetDateTime {
        self.opening.valid_until
    }

    /// Thresholds that are crossed.
    fn crossed(&self, spent: u64) -> usize {
        self.opening.quota_percent.iter().take_while(|percent| spent >= self.crossed_at(**percent)).count()
    }

    fn borrow(&self, reported: u64, lease: Option<Lease>, asked_at: Instant) {
        let mut bridged = self.bridged();
        *bridged = 0;
        let since = asked_at.saturating_duration_since(self.opening.asked_at);
        let (allowed, ends) =
            lease.map_or((NEVER, NEVER), |lease| (lease.allowed, millis(since).saturating_add(lease.lasts_ms)));
        self.lease_ends.store(ends, Ordering::Relaxed);
        self.waits.store(allowed <= self.spent(), Ordering::Relaxed);
        let half = allowed.saturating_sub(reported) / 2;
        self.renew_at.store(reported.saturating_add(half.max(1)), Ordering::Relaxed);
        self.allowed.store(allowed, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
    }

    /// What the gateway holds of the lease, 0 without a limit; a regular report gives back what is not likely to be used.
    pub(crate) fn holding(&self, periodic: bool) -> u64 {
        let allowed = self.allowed.load(Ordering::Relaxed);
        if allowed == NEVER {
            return 0;
        }
        let spent = self.spent();
        let ends = self.lease_ends.load(Ordering::Relaxed);
        let kept = if ends != NEVER && self.age() >= ends {
            spent
        } else if periodic {
            let moved = spent.saturating_sub(self.reported.load(Ordering::Relaxed));
            allowed.min(spent.saturating_add(moved.saturating_mul(AHEAD)))
        } else {
            allowed
        };
        self.allowed.store(kept, Ordering::Relaxed);
        kept
    }

    /// What was given back was not taken.
    pub(crate) fn take_back(&self, held: u64) {
        self.allowed.fetch_max(held, Ordering::Relaxed);
    }

    /// Bytes in all that may be moved.
    pub(crate) fn held(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed)
    }

    fn bridged(&self) -> MutexGuard<'_, u64> {
        self.bridged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The control plane is away: a session that wants to move something and has no lease lives on its device's allowance,
    /// and ends with it.
    pub(crate) fn open_up(&self) {
        if !self.bridge() {
            self.cut(SessionCode::ControlUnavailable);
        }
    }

    /// Takes a piece of the device's allowance if the session wants to move something and has no lease; false if there is
    /// none.
    fn bridge(&self) -> bool {
        let mut bridged = self.bridged();
        let spent = self.spent();
        if !self.asks() {
            return true;
        }
        if !self.is_out(spent) {
            self.asked.store(false, Ordering::Relaxed);
            return true;
        }
        let more = self.opening.allowance.take();
        if more == 0 {
            return false;
        }
        *bridged = more;
        let allowed = spent.saturating_add(more);
        self.lease_ends.store(NEVER, Ordering::Relaxed);
        self.renew_at.store(allowed, Ordering::Relaxed);
        self.allowed.store(allowed, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
        true
    }

    /// The session is over: what it took of its device's allowance and did not move is the device's again.
    pub(crate) fn give_back(&self) {
        let bridged = std::mem::take(&mut *self.bridged());
        let unused = self.allowed.load(Ordering::Relaxed).saturating_sub(self.spent());
        self.opening.allowance.give_back(bridged.min(unused));
    }

    fn age(&self) -> u64 {
        millis(self.opening.asked_at.elapsed())
    }

    fn is_out(&self, spent: u64) -> bool {
        let allowed = self.allowed.load(Ordering::Relaxed);
        if allowed == NEVER {
            return false;
        }
        let ends = self.lease_ends.load(Ordering::Relaxed);
        spent >= allowed || ends != NEVER && self.age() >= ends
    }

    /// Whether the session wants to move more than it may.
    pub(crate) fn asks(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn ask(&self) {
        if !self.asked.swap(true, Ordering::Relaxed) {
            self.waiting_since.store(self.age(), Ordering::Relaxed);
            self.opening.report_queue.add(self.opening.session);
        }
    }

    /// Asks for more, or tells the user, if it is time; called for every chunk that moved.
    pub(crate) fn enforce(&self) {
        let spent = self.spent();
        let renew_at = self.renew_at.load(Ordering::Relaxed);
        if spent >= renew_at {
            let left = self.allowed.load(Ordering::Relaxed).saturating_sub(spent);
            self.renew_at.store(spent.saturating_add((left / 2).max(1)), Ordering::Relaxed);
            self.ask();
        }
        if spent >= self.notice_at.load(Ordering::Relaxed) {
            self.notify(spent);
        }
    }

    fn plan_notice(&self, notified: usize) {
        let at = self.opening.quota_percent.get(notified).map_or(NEVER, |percent| self.crossed_at(*percent));
        self.notice_at.store(at, Ordering::Relaxed);
    }

    /// What this session has spent when so many per cent of the period are used.
    fn crossed_at(&self, percent: u8) -> u64 {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == NEVER {
            return NEVER;
        }
        let reserve = u128::from(limit) * u128::from(100u8.saturating_sub(percent)) / 100;
        let reserve = u64::try_from(reserve).unwrap_or(NEVER);
        self.ceiling.load(Ordering::Relaxed).saturating_sub(reserve)
    }

    fn notify(&self, spent: u64) {
        let mut notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
        let crossed = self.crossed(spent);
        if crossed > *notified
            && let Some(percent) = self.opening.quota_percent.get(crossed - 1)
        {
            let remaining_bytes = self.ceiling.load(Ordering::Relaxed).saturating_sub(spent);
            self.opening.tunnel.notice(Notice::Quota { percent: *percent, remaining_bytes });
            *notified = crossed;
        }
        self.plan_notice(*notified);
    }

    pub(super) fn spent(&self) -> u64 {
        self.up.load(Ordering::Relaxed).saturating_add(self.down.load(Ordering::Relaxed))
    }

    pub(super) fn unreported(&self) -> u64 {
        self.spent().saturating_sub(self.reported.load(Ordering::Relaxed))
    }

    /// Ends the session with a code; only the first counts.
    pub(crate) fn cut(&self, code: SessionCode) {
        if self.cut.set(code).is_ok() {
            self.opening.tunnel.close(Some(code), "");
        }
    }

    /// Why the gateway ended the session, if it did.
    pub(crate) fn cut_code(&self) -> Option<SessionCode> {
        self.cut.get().copied()
    }

    pub(super) fn entry(&self, ended_at: Option<OffsetDateTime>) -> JournalEntry {
        JournalEntry {
            session: self.opening.session,
            device: self.opening.device,
            up: self.up.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
            started_at: self.started_at,
            ended_at,
        }
    }
}

impl Meter for Account {
    fn hold(&self) -> Option<Instant> {
        if !self.is_out(self.spent()) {
            return None;
        }
        self.ask();
        let since = Duration::from_millis(self.waiting_since.load(Ordering::Relaxed));
        match self.opening.reach.standing(self.opening.asked_at + since) {
            Standing::Answering => {}
            Standing::Doubtful => {
                self.bridge();
            }
            Standing::Away => self.open_up(),
        }
        if !self.is_out(self.spent()) {
            return None;
        }
        let retry_in = if self.waits.load(Ordering::Relaxed) { LEASE_ELSEWHERE } else { LEASE_UNDER_WAY };
        Some(Instant::now() + retry_in)
    }

    fn sent(&self, bytes: usize) -> Option<Instant> {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        self.total_up.inc_by(bytes as u64);
        self.enforce();
        self.opening.rate_limiter.up(bytes)
    }

    fn received(&self, bytes: usize) -> Option<Instant> {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.total_down.inc_by(bytes as u64);
        self.enforce();
        self.opening.rate_limiter.down(bytes)
    }

    fn chunk_limit(&self) -> usize {
        let limit = self.opening.rate_limiter.chunk_limit().min(CHUNK_LIMIT);
        match usize::try_from(self.allowed.load(Ordering::Relaxed).saturating_sub(self.spent())) {
            Ok(left @ 1..) => left.min(limit),
            Ok(0) | Err(_) => limit,
        }
    }
}

#[cfg(test)]
mod tests;
