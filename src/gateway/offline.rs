//! Devices that may be served while the control plane is away (docs/04, "Without the control plane").

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::Offline;

/// A budget is handed out in so many pieces.
const PIECES: u64 = 8;
const LEAST_PIECE: u64 = 64 * 1024;
/// When there are too many devices, the oldest of so many goes.
const SAMPLE: usize = 32;

/// What a device may move while the control plane is away, all its sessions together.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    size: AtomicU64,
    left: AtomicU64,
}

impl Budget {
    pub(super) fn set(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
        self.refill();
    }

    /// The control plane has answered: an outage is over.
    pub(crate) fn refill(&self) {
        self.left.store(self.size.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// A piece of what is left.
    pub(crate) fn take(&self) -> u64 {
        let piece = (self.size.load(Ordering::Relaxed) / PIECES).max(LEAST_PIECE);
        let rest = |left: u64| Some(left.saturating_sub(piece));
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest) {
            Ok(before) | Err(before) => before.min(piece),
        }
    }
}

/// What the control plane said of a device.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) user: Uuid,
    pub(crate) valid_until: OffsetDateTime,
    /// Bytes of the period, if they are limited.
    pub(crate) limit: Option<u64>,
    pub(crate) rate_limit_mbps: Option<i32>,
    /// Regions that the device was let into.
    pub(crate) regions: Vec<String>,
    seen: Option<Instant>,
}

impl Known {
    pub(crate) fn new(
        user: Uuid,
        valid_until: OffsetDateTime,
        limit: Option<u64>,
        rate_limit_mbps: Option<i32>,
        region: String,
    ) -> Self {
        Self { user, valid_until, limit, rate_limit_mbps, regions: vec![region], seen: None }
    }
}

/// The devices that were validated lately.
pub(crate) struct Acquaintances {
    config: Offline,
    devices: Mutex<HashMap<Uuid, (Known, Arc<Budget>)>>,
}

impl Acquaintances {
    pub(crate) fn new(config: Offline) -> Self {
        Self { config, devices: Mutex::default() }
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<Uuid, (Known, Arc<Budget>)>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device was validated; gives its budget.
    pub(crate) fn met(&self, device: Uuid, mut known: Known, fail_open: u64) -> Arc<Budget> {
        let now = Instant::now();
        known.seen = Some(now);
        let mut devices = self.devices();
        if devices.len() >= self.config.devices && !devices.contains_key(&device) {
            let some = devices.iter().take(SAMPLE);
            let oldest = some.min_by_key(|(_, (known, _))| known.seen).map(|(device, _)| *device);
            oldest.map(|oldest| devices.remove(&oldest));
        }
        let budget = match devices.remove(&device) {
            Some((before, budget)) => {
                for region in before.regions {
                    if !known.regions.contains(&region) {
                        known.regions.push(region);
                    }
                }
                known.regions.truncate(16);
                budget
            }
            None => Arc::default(),
        };
        budget.set(fail_open);
        devices.insert(device, (known, Arc::clone(&budget)));
        budget
    }

    /// A device that may be served without asking, and its budget.
    pub(crate) fn recall(&self, device: Uuid, region: &str) -> Option<(Known, Arc<Budget>)> {
        let devices = self.devices();
        let (known, budget) = devices.get(&device)?;
        let fresh = known.seen.is_some_and(|seen| seen.elapsed() < self.config.max_age);
        let paid = OffsetDateTime::now_utc() < known.valid_until;
        let allowed = known.regions.iter().any(|allowed| allowed == region);
        (fresh && paid && allowed).then(|| (known.clone(), Arc::clone(budget)))
    }

    /// A device may not be served any more without asking; its budget stays what it is.
    pub(crate) fn forget(&self, device: Uuid) {
        if let Some((known, _)) = self.devices().get_mut(&device) {
            known.seen = None;
        }
    }

    /// None of these devices may be served any more without asking.
    pub(crate) fn forget_those(&self, of: impl Fn(Uuid, &Known) -> bool) {
        for (device, (known, _)) in self.devices().iter_mut() {
            if of(*device, known) {
                known.seen = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn known(region: &str) -> Known {
        let until = OffsetDateTime::now_utc() + Duration::from_secs(60);
        Known::new(Uuid::now_v7(), until, None, None, region.into())
    }

    #[test]
    fn a_budget_is_shared_and_runs_out() {
        let budget = Budget::default();
        assert_eq!(budget.take(), 0);
        budget.set(1_000_000);
        let taken: u64 = (0..20).map(|_| budget.take()).sum();
        assert_eq!((taken, budget.take()), (1_000_000, 0));
        budget.refill();
        assert_eq!(budget.take(), 125_000);
    }

    #[test]
    fn only_devices_met_lately_are_recalled() {
        let config = Offline { max_age: Duration::from_secs(60), devices: 2 };
        let acquaintances = Acquaintances::new(config);
        let [first, second, third] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
        acquaintances.met(first, known("eu-1"), 10);
        acquaintances.met(first, known("ru-1"), 10);
        for region in ["eu-1", "ru-1"] {
            assert!(acquaintances.recall(first, region).is_some());
        }
        assert!(acquaintances.recall(first, "us-1").is_none() && acquaintances.recall(second, "eu-1").is_none());
        acquaintances.met(second, known("eu-1"), 10);
        acquaintances.met(third, known("eu-1"), 10);
        assert!(acquaintances.recall(first, "eu-1").is_none(), "the oldest goes when there are too many");
        let user = acquaintances.recall(third, "eu-1").unwrap().0.user;
        acquaintances.forget(second);
        acquaintances.forget_those(|_, known| known.user == user);
        assert!(acquaintances.recall(second, "eu-1").is_none() && acquaintances.recall(third, "eu-1").is_none());
        let strict = Acquaintances::new(Offline { max_age: Duration::ZERO, devices: 2 });
        strict.met(first, known("eu-1"), 10);
        assert!(strict.recall(first, "eu-1").is_none());
    }
}
