//! The counters of one session, and what follows from them at once: the cut, notices, the rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::IntCounter;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use super::journal::Entry;
use super::metrics::GatewayMetrics;
use super::pace::Pace;
use crate::frame::{Notice, SessionCode, Token};
use crate::net::tunnel::{Meter, Tunnel};

/// What a piece is when no rate limits it.
const PIECE: usize = crate::net::buffered::CHUNK;

/// What a session begins with.
pub(crate) struct Opening {
    pub(crate) session: Uuid,
    pub(crate) device: Uuid,
    pub(crate) token: Token,
    /// Bytes left in this period; any number without a limit.
    pub(crate) remaining: Option<u64>,
    /// Bytes of the whole period.
    pub(crate) limit: Option<u64>,
    pub(crate) pace: Option<Arc<Pace>>,
    pub(crate) quota_percent: Vec<u8>,
    pub(crate) tunnel: Tunnel,
}

/// The counters of one session: billed payload bytes, cumulative.
pub(crate) struct Account {
    opening: Opening,
    started_at: OffsetDateTime,
    up: AtomicU64,
    down: AtomicU64,
    allowed: AtomicU64,
    /// What is spent when the user is told next.
    notice_at: AtomicU64,
    told: Mutex<usize>,
    pub(super) kept: AtomicU64,
    settled: AtomicU64,
    cut: OnceLock<SessionCode>,
    total_up: IntCounter,
    total_down: IntCounter,
}

impl Account {
    pub(crate) fn new(opening: Opening, metrics: &GatewayMetrics) -> Self {
        let account = Self {
            started_at: OffsetDateTime::now_utc(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            allowed: AtomicU64::new(opening.remaining.unwrap_or(u64::MAX)),
            notice_at: AtomicU64::new(0),
            told: Mutex::new(0),
            kept: AtomicU64::new(u64::MAX),
            settled: AtomicU64::new(0),
            cut: OnceLock::new(),
            total_up: metrics.bytes.with_label_values(&["up"]),
            total_down: metrics.bytes.with_label_values(&["down"]),
            opening,
        };
        account.plan_notice(0);
        account
    }

    pub(crate) fn session(&self) -> Uuid {
        self.opening.session
    }

    pub(crate) fn token(&self) -> &Token {
        &self.opening.token
    }

    /// Applies what the control plane says is left beyond what was reported.
    pub(crate) fn settle(&self, reported: u64, remaining: Option<u64>) {
        self.settled.store(reported, Ordering::Relaxed);
        let allowed = remaining.map_or(u64::MAX, |left| reported.saturating_add(left));
        self.allowed.store(allowed, Ordering::Relaxed);
        self.plan_notice(*self.told.lock().unwrap_or_else(PoisonError::into_inner));
        self.enforce();
    }

    /// Cuts or tells, if it is time; called for every piece that moved.
    pub(crate) fn enforce(&self) {
        let spent = self.spent();
        if spent >= self.allowed.load(Ordering::Relaxed) {
            self.cut(SessionCode::LimitReached);
        } else if spent >= self.notice_at.load(Ordering::Relaxed) {
            self.tell(spent);
        }
    }

    fn plan_notice(&self, told: usize) {
        let at = self.opening.quota_percent.get(told).map_or(u64::MAX, |percent| self.crossed_at(*percent));
        self.notice_at.store(at, Ordering::Relaxed);
    }

    /// What this session has spent when so many per cent of the period are used.
    fn crossed_at(&self, percent: u8) -> u64 {
        let Some(limit) = self.opening.limit else { return u64::MAX };
        let reserve = u128::from(limit) * u128::from(100u8.saturating_sub(percent)) / 100;
        let reserve = u64::try_from(reserve).unwrap_or(u64::MAX);
        self.allowed.load(Ordering::Relaxed).saturating_sub(reserve)
    }

    fn tell(&self, spent: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let thresholds = &self.opening.quota_percent;
        let crossed = thresholds.iter().take_while(|percent| spent >= self.crossed_at(**percent)).count();
        if crossed > *told
            && let Some(percent) = thresholds.get(crossed - 1)
        {
            let remaining_bytes = self.allowed.load(Ordering::Relaxed).saturating_sub(spent);
            self.opening.tunnel.notice(Notice::Quota { percent: *percent, remaining_bytes });
            *told = crossed;
        }
        self.plan_notice(*told);
    }

    pub(super) fn spent(&self) -> u64 {
        self.up.load(Ordering::Relaxed).saturating_add(self.down.load(Ordering::Relaxed))
    }

    pub(super) fn unsettled(&self) -> u64 {
        self.spent().saturating_sub(self.settled.load(Ordering::Relaxed))
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

    pub(super) fn entry(&self, ended_at: Option<OffsetDateTime>) -> Entry {
        Entry {
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
    fn sent(&self, bytes: usize) -> Option<Instant> {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        self.total_up.inc_by(bytes as u64);
        self.enforce();
        self.opening.pace.as_ref()?.up(bytes)
    }

    fn received(&self, bytes: usize) -> Option<Instant> {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.total_down.inc_by(bytes as u64);
        self.enforce();
        self.opening.pace.as_ref()?.down(bytes)
    }

    fn piece(&self) -> usize {
        self.opening.pace.as_ref().map_or(PIECE, |pace| pace.piece().min(PIECE))
    }
}
