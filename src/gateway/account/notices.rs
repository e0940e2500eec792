//! What a session's user is told of the quota and of the subscription's end, each once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::frame::Notice;
use crate::net::tunnel::Tunnel;

const NEVER: u64 = u64::MAX;

/// The thresholds of a session's notices, and which of them were crossed.
pub(super) struct UserNotices {
    quota_percent: Vec<u8>,
    expiry_before: Duration,
    /// Bytes of the whole period.
    limit: AtomicU64,
    /// What is spent when the period's traffic is used up, if nobody else uses any.
    ceiling: AtomicU64,
    /// What is spent when the user is notified next.
    notice_at: AtomicU64,
    /// Thresholds that the user was notified of.
    notified: Mutex<usize>,
    /// The end that the user was reminded of.
    reminded: Mutex<Option<OffsetDateTime>>,
}

impl UserNotices {
    /// Thresholds for a period with a limit and with bytes left; none without them.
    pub(super) fn new(
        quota_percent: Vec<u8>,
        expiry_before: Duration,
        limit: Option<u64>,
        remaining: Option<u64>,
    ) -> Self {
        let notices = Self {
            quota_percent,
            expiry_before,
            limit: AtomicU64::new(limit.unwrap_or(NEVER)),
            ceiling: AtomicU64::new(remaining.unwrap_or(NEVER)),
            notice_at: AtomicU64::new(0),
            notified: Mutex::new(0),
            reminded: Mutex::new(None),
        };
        notices.plan(0);
        notices
    }

    /// Takes the period's limit and what is left of it, as they were when so many bytes had been reported.
    pub(super) fn update(&self, reported: u64, remaining: Option<u64>, limit: Option<u64>, spent: u64) {
        let ceiling = remaining.map_or(NEVER, |left| reported.saturating_add(left));
        self.ceiling.store(ceiling, Ordering::Relaxed);
        self.limit.store(limit.unwrap_or(NEVER), Ordering::Relaxed);
        let notified = {
            let mut notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
            *notified = (*notified).min(self.crossed(spent));
            *notified
        };
        self.plan(notified);
    }

    /// Whether a threshold is crossed that the user was not notified of.
    pub(super) fn is_due(&self, spent: u64) -> bool {
        spent >= self.notice_at.load(Ordering::Relaxed)
    }

    /// Notifies the user of the highest threshold that is crossed.
    pub(super) fn notify(&self, spent: u64, tunnel: &Tunnel) {
        let mut notified = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
        let crossed = self.crossed(spent);
        if crossed > *notified
            && let Some(percent) = self.quota_percent.get(crossed - 1)
        {
            let remaining_bytes = self.ceiling.load(Ordering::Relaxed).saturating_sub(spent);
            tunnel.notice(Notice::Quota { percent: *percent, remaining_bytes });
            *notified = crossed;
        }
        self.plan(*notified);
    }

    /// Reminds the user once that the subscription ends soon.
    pub(super) fn remind(&self, valid_until: OffsetDateTime, now: OffsetDateTime, tunnel: &Tunnel) {
        if valid_until - now >= self.expiry_before {
            return;
        }
        let mut reminded = self.reminded.lock().unwrap_or_else(PoisonError::into_inner);
        if *reminded != Some(valid_until)
            && let Ok(text) = valid_until.format(&Rfc3339)
        {
            tunnel.notice(Notice::Expiry { valid_until: text });
            *reminded = Some(valid_until);
        }
    }

    /// Thresholds that are crossed.
    fn crossed(&self, spent: u64) -> usize {
        self.quota_percent.iter().take_while(|percent| spent >= self.crossed_at(**percent)).count()
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

    fn plan(&self, notified: usize) {
        let at = self.quota_percent.get(notified).map_or(NEVER, |percent| self.crossed_at(*percent));
        self.notice_at.store(at, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn notified(&self) -> usize {
        *self.notified.lock().unwrap()
    }
}
