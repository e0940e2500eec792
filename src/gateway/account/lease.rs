//! The traffic that is lent to a session, and what it lives on while the control plane is away (docs/02, "Leases").

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::counters::Counters;
use crate::api::Lease;
use crate::gateway::offline::OutageAllowance;

/// How long a stream waits for a lease before it looks again, and while others hold what is left.
const LEASE_UNDER_WAY: Duration = Duration::from_millis(5);
const LEASE_ELSEWHERE: Duration = Duration::from_millis(250);
const NEVER: u64 = u64::MAX;

/// What a session may move.
pub(super) struct LeaseState {
    /// When the control plane was first asked: times count from here, in milliseconds.
    began: Instant,
    /// Bytes in all that may be moved.
    allowed: AtomicU64,
    /// When that is over.
    ends: AtomicU64,
    /// What is spent when more is asked for.
    renew_at: AtomicU64,
    asked: AtomicBool,
    /// When that was.
    asked_at: AtomicU64,
    /// Bytes of the device's allowance that the session may move now, and who takes more.
    bridged: Mutex<u64>,
    /// Others hold what is left.
    is_elsewhere: AtomicBool,
    /// What the device may move while the control plane is away.
    allowance: Arc<OutageAllowance>,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

impl LeaseState {
    /// The first lease of a session, which the control plane was asked for at a moment.
    pub(super) fn new(
        lease: Option<Lease>,
        asked_at: Instant,
        allowance: Arc<OutageAllowance>,
        counters: &Counters,
    ) -> Self {
        let state = Self {
            began: asked_at,
            allowed: AtomicU64::new(NEVER),
            ends: AtomicU64::new(NEVER),
            renew_at: AtomicU64::new(NEVER),
            asked: AtomicBool::new(false),
            asked_at: AtomicU64::new(0),
            bridged: Mutex::new(0),
            is_elsewhere: AtomicBool::new(false),
            allowance,
        };
        state.grant(lease, asked_at, 0, counters);
        state
    }

    /// The control plane does not know the session, so that nobody else holds its traffic.
    pub(super) fn expect_answer(&self) {
        self.is_elsewhere.store(false, Ordering::Relaxed);
    }

    fn bridged(&self) -> MutexGuard<'_, u64> {
        self.bridged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lease that was asked for at a moment, when so many bytes had been reported.
    pub(super) fn grant(&self, lease: Option<Lease>, asked_at: Instant, reported: u64, counters: &Counters) {
        let mut bridged = self.bridged();
        *bridged = 0;
        let since = asked_at.saturating_duration_since(self.began);
        let (allowed, ends) =
            lease.map_or((NEVER, NEVER), |lease| (lease.allowed, millis(since).saturating_add(lease.lasts_ms)));
        self.ends.store(ends, Ordering::Relaxed);
        self.is_elsewhere.store(allowed <= counters.spent(), Ordering::Relaxed);
        let half = allowed.saturating_sub(reported) / 2;
        self.renew_at.store(reported.saturating_add(half.max(1)), Ordering::Relaxed);
        self.allowed.store(allowed, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
    }

    /// The control plane has answered: the device has all of its allowance again.
    pub(super) fn refill_allowance(&self) {
        self.allowance.refill();
    }

    /// What the gateway holds of the lease, 0 without a limit; a regular report gives back what is not likely to be used.
    pub(super) fn holding(&self, periodic: bool, counters: &Counters) -> u64 {
        let allowed = self.held();
        if allowed == NEVER {
            return 0;
        }
        let spent = counters.spent();
        let kept = if self.has_ended() {
            spent
        } else if periodic {
            let moved = spent.saturating_sub(counters.reported());
            allowed.min(spent.saturating_add(Lease::demand(moved)))
        } else {
            allowed
        };
        self.allowed.store(kept, Ordering::Relaxed);
        kept
    }

    /// What was given back was not taken.
    pub(super) fn take_back(&self, held: u64) {
        self.allowed.fetch_max(held, Ordering::Relaxed);
    }

    /// Bytes in all that may be moved.
    pub(super) fn held(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Bytes that may still be moved.
    pub(super) fn left(&self, spent: u64) -> u64 {
        self.held().saturating_sub(spent)
    }

    /// Takes a part of the device's allowance if the session wants to move something and has no lease; false if there is
    /// none.
    pub(super) fn bridge(&self, counters: &Counters) -> bool {
        let mut bridged = self.bridged();
        let spent = counters.spent();
        if !self.asks() {
            return true;
        }
        if !self.is_out(spent) {
            self.asked.store(false, Ordering::Relaxed);
            return true;
        }
        let more = self.allowance.take();
        if more == 0 {
            return false;
        }
        *bridged = more;
        let allowed = spent.saturating_add(more);
        self.ends.store(NEVER, Ordering::Relaxed);
        self.renew_at.store(allowed, Ordering::Relaxed);
        self.allowed.store(allowed, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
        true
    }

    /// The session is over: what it took of its device's allowance and did not move is the device's again.
    pub(super) fn return_allowance(&self, counters: &Counters) {
        let bridged = std::mem::take(&mut *self.bridged());
        self.allowance.give_back(bridged.min(self.left(counters.spent())));
    }

    fn age(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn has_ended(&self) -> bool {
        let ends = self.ends.load(Ordering::Relaxed);
        ends != NEVER && self.age() >= ends
    }

    /// Whether nothing may be moved after so many bytes.
    pub(super) fn is_out(&self, spent: u64) -> bool {
        let allowed = self.held();
        allowed != NEVER && (spent >= allowed || self.has_ended())
    }

    /// Whether the session wants to move more than it may.
    pub(super) fn asks(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The session wants more; whether nobody has asked for it yet.
    pub(super) fn ask(&self) -> bool {
        let is_first = !self.asked.swap(true, Ordering::Relaxed);
        if is_first {
            self.asked_at.store(self.age(), Ordering::Relaxed);
        }
        is_first
    }

    /// Since when the session has waited for more.
    pub(super) fn asked_at(&self) -> Instant {
        self.began + Duration::from_millis(self.asked_at.load(Ordering::Relaxed))
    }

    /// Whether it is time to ask for more.
    pub(super) fn is_renewal_due(&self, spent: u64) -> bool {
        let is_due = spent >= self.renew_at.load(Ordering::Relaxed);
        if is_due {
            let half = self.left(spent) / 2;
            self.renew_at.store(spent.saturating_add(half.max(1)), Ordering::Relaxed);
        }
        is_due
    }

    /// How soon a stream that waits for a lease looks again.
    pub(super) fn look_again_in(&self) -> Duration {
        if self.is_elsewhere.load(Ordering::Relaxed) { LEASE_ELSEWHERE } else { LEASE_UNDER_WAY }
    }
}
