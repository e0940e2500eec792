//! Devices that may be served while the control plane is away (docs/04, "Without the control plane").

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::Notify;
use uuid::Uuid;

use super::control_clock::ControlClock;
use crate::config::Offline;

/// An allowance is handed out in so many pieces.
const PIECES: u64 = 8;
const LEAST_PIECE: u64 = 64 * 1024;
/// When there are too many devices, the oldest of so many goes.
const SAMPLE: usize = 32;

/// Devices of which the disk has another picture.
#[derive(Debug, Default)]
pub(super) struct Changed {
    devices: Mutex<HashSet<Uuid>>,
    pub(super) notify: Notify,
}

impl Changed {
    fn devices(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, devices: impl IntoIterator<Item = Uuid>) {
        self.devices().extend(devices);
        self.notify.notify_one();
    }
}

/// What a device may move while the control plane is away, all its sessions together.
#[derive(Debug, Default)]
pub(crate) struct OutageAllowance {
    device: Uuid,
    size: AtomicU64,
    left: AtomicU64,
    changed: Arc<Changed>,
}

impl OutageAllowance {
    pub(super) fn set(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
        self.refill();
    }

    /// The control plane has answered: an outage is over.
    pub(crate) fn refill(&self) {
        let size = self.size.load(Ordering::Relaxed);
        if self.left.swap(size, Ordering::Relaxed) != size {
            self.changed.add([self.device]);
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// A piece of what is left.
    pub(crate) fn take(&self) -> u64 {
        let piece = (self.size.load(Ordering::Relaxed) / PIECES).max(LEAST_PIECE);
        let rest = |left: u64| Some(left.saturating_sub(piece));
        let (Ok(before) | Err(before)) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        if before > 0 {
            self.changed.add([self.device]);
        }
        before.min(piece)
    }

    /// Gives back what was taken and not moved.
    pub(crate) fn give_back(&self, unused: u64) {
        let size = self.size.load(Ordering::Relaxed);
        let more = |left: u64| Some(left.saturating_add(unused).min(size));
        let (Ok(before) | Err(before)) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if before != size {
            self.changed.add([self.device]);
        }
    }
}

/// What the control plane said of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CachedDevice {
    pub(crate) user: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) valid_until: OffsetDateTime,
    /// Bytes of the period, if they are limited.
    pub(crate) limit: Option<u64>,
    pub(crate) rate_limit_mbps: Option<i32>,
    /// Regions that the device was let into.
    pub(crate) regions: Vec<String>,
}

/// A device as it is kept on disk.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredDevice {
    #[serde(flatten)]
    device: CachedDevice,
    #[serde(rename = "seen", with = "time::serde::rfc3339")]
    validated_at: OffsetDateTime,
    allowance: u64,
    left: u64,
}

struct CacheEntry {
    device: CachedDevice,
    /// When it was validated; never, if it was forgotten since.
    validated_at: Option<OffsetDateTime>,
    allowance: Arc<OutageAllowance>,
}

/// The devices that were validated lately.
pub(crate) struct OfflineCache {
    config: Offline,
    clock: Arc<ControlClock>,
    devices: Mutex<HashMap<Uuid, CacheEntry>>,
    changed: Arc<Changed>,
}

impl OfflineCache {
    pub(crate) fn new(config: Offline, clock: Arc<ControlClock>) -> Self {
        Self { config, clock, devices: Mutex::default(), changed: Arc::default() }
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<Uuid, CacheEntry>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device was validated; gives its allowance.
    pub(crate) fn insert(&self, id: Uuid, mut device: CachedDevice, fail_open: u64) -> Arc<OutageAllowance> {
        let validated_at = Some(self.clock.now());
        let mut devices = self.devices();
        if devices.len() >= self.config.devices && !devices.contains_key(&id) {
            let some = devices.iter().take(SAMPLE);
            if let Some(oldest) = some.min_by_key(|(_, entry)| entry.validated_at).map(|(id, _)| *id) {
                devices.remove(&oldest);
                self.changed.add([oldest]);
            }
        }
        let allowance = match devices.remove(&id) {
            Some(before) => {
                for region in before.device.regions {
                    if !device.regions.contains(&region) {
                        device.regions.push(region);
                    }
                }
                device.regions.truncate(self.config.regions);
                before.allowance
            }
            None => self.allowance(id, 0, 0),
        };
        allowance.set(fail_open);
        devices.insert(id, CacheEntry { device, validated_at, allowance: Arc::clone(&allowance) });
        self.changed.add([id]);
        allowance
    }

    fn allowance(&self, device: Uuid, size: u64, left: u64) -> Arc<OutageAllowance> {
        let changed = Arc::clone(&self.changed);
        Arc::new(OutageAllowance { device, size: size.into(), left: left.into(), changed })
    }

    /// A device that may be served without asking, and its allowance.
    pub(crate) fn lookup(&self, id: Uuid, region: &str) -> Option<(CachedDevice, Arc<OutageAllowance>)> {
        let now = self.clock.now();
        let devices = self.devices();
        let CacheEntry { device, validated_at, allowance } = devices.get(&id)?;
        let fresh = validated_at.is_some_and(|at| now - at < self.config.max_age);
        let paid = now < device.valid_until;
        let allowed = device.regions.iter().any(|allowed| allowed == region);
        (fresh && paid && allowed).then(|| (device.clone(), Arc::clone(allowance)))
    }

    /// A device may not be served any more without asking; its allowance stays what it is.
    pub(crate) fn forget(&self, id: Uuid) {
        if let Some(entry) = self.devices().get_mut(&id) {
            entry.validated_at = None;
            self.changed.add([id]);
        }
    }

    /// None of these devices may be served any more without asking.
    pub(crate) fn forget_those(&self, of: impl Fn(Uuid, &CachedDevice) -> bool) {
        let mut devices = self.devices();
        let those = devices.iter_mut().filter(|(id, entry)| entry.validated_at.is_some() && of(**id, &entry.device));
        let forgotten: Vec<Uuid> = those
            .map(|(id, entry)| {
                entry.validated_at = None;
                *id
            })
            .collect();
        drop(devices);
        self.changed.add(forgotten);
    }

    /// Where changes are noted that the disk does not have yet.
    pub(super) fn changed(&self) -> &Changed {
        &self.changed
    }

    /// What the disk is to have of the devices that have changed; nothing of those that are forgotten.
    pub(super) fn take_changed(&self) -> Vec<(Uuid, Option<StoredDevice>)> {
        let changed = std::mem::take(&mut *self.changed.devices());
        let devices = self.devices();
        let stored = |id: Uuid| {
            let entry = devices.get(&id)?;
            let (size, left) = (&entry.allowance.size, &entry.allowance.left);
            Some(StoredDevice {
                device: entry.device.clone(),
                validated_at: entry.validated_at?,
                allowance: size.load(Ordering::Relaxed),
                left: left.load(Ordering::Relaxed),
            })
        };
        changed.into_iter().map(|id| (id, stored(id))).collect()
    }

    /// Takes a device that an earlier process had kept.
    pub(super) fn restore(&self, id: Uuid, stored: StoredDevice) {
        let StoredDevice { device, validated_at, allowance, left } = stored;
        let entry =
            CacheEntry { device, validated_at: Some(validated_at), allowance: self.allowance(id, allowance, left) };
        let mut devices = self.devices();
        if devices.len() < self.config.devices {
            devices.insert(id, entry);
        } else {
            self.changed.add([id]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;
    use crate::clock::ManualClock;
    use crate::gateway::control_clock::tests::config;
    use crate::gateway::metrics::GatewayMetrics;

    const NOON: OffsetDateTime = datetime!(2026-11-28 12:00 UTC);

    fn known(region: &str) -> CachedDevice {
        CachedDevice {
            user: Uuid::now_v7(),
            valid_until: NOON + Duration::from_hours(1),
            limit: None,
            rate_limit_mbps: None,
            regions: vec![region.into()],
        }
    }

    fn cache(max_age: Duration, devices: usize) -> OfflineCache {
        cache_at(&ManualClock::at(NOON), max_age, devices)
    }

    fn cache_at(manual: &ManualClock, max_age: Duration, devices: usize) -> OfflineCache {
        let clock = ControlClock::new(manual.clock(), config(), &GatewayMetrics::new());
        OfflineCache::new(
            Offline { max_age, devices, regions: 16, flush_interval: Duration::from_secs(1) },
            Arc::new(clock),
        )
    }

    #[test]
    fn an_allowance_is_shared_and_runs_out_and_what_was_not_moved_comes_back() {
        let allowance = OutageAllowance::default();
        assert_eq!(allowance.take(), 0);
        allowance.set(1_000_000);
        let taken: u64 = (0..20).map(|_| allowance.take()).sum();
        assert_eq!((taken, allowance.take(), allowance.is_spent()), (1_000_000, 0, true));
        allowance.give_back(1000);
        assert_eq!(allowance.take(), 1000);
        allowance.refill();
        allowance.give_back(1000);
        assert_eq!((allowance.left.load(Ordering::Relaxed), allowance.take()), (1_000_000, 125_000));
    }

    #[test]
    fn only_devices_validated_lately_are_found() {
        let manual = ManualClock::at(NOON);
        let devices = cache_at(&manual, Duration::from_mins(1), 2);
        let [first, second, third] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
        devices.insert(first, known("eu-1"), 10);
        devices.insert(first, known("ru-1"), 10);
        for region in ["eu-1", "ru-1"] {
            assert!(devices.lookup(first, region).is_some());
        }
        assert!(devices.lookup(first, "us-1").is_none() && devices.lookup(second, "eu-1").is_none());
        manual.advance(Duration::from_secs(1));
        devices.insert(second, known("eu-1"), 10);
        devices.insert(third, known("eu-1"), 10);
        assert!(devices.lookup(first, "eu-1").is_none(), "the oldest goes when there are too many");
        let user = devices.lookup(third, "eu-1").unwrap().0.user;
        devices.forget(second);
        devices.forget_those(|_, known| known.user == user);
        assert!(devices.lookup(second, "eu-1").is_none() && devices.lookup(third, "eu-1").is_none());
        let strict = cache(Duration::ZERO, 2);
        strict.insert(first, known("eu-1"), 10);
        assert!(strict.lookup(first, "eu-1").is_none());
    }

    #[test]
    fn a_device_is_found_until_max_age_has_passed_since_it_was_validated() {
        let (manual, first) = (ManualClock::at(NOON), Uuid::now_v7());
        let devices = cache_at(&manual, Duration::from_mins(10), 2);
        devices.insert(first, known("eu-1"), 10);
        manual.advance(Duration::from_millis(599_999));
        assert!(devices.lookup(first, "eu-1").is_some());
        manual.advance(Duration::from_millis(1));
        assert!(devices.lookup(first, "eu-1").is_none());
        devices.insert(first, known("eu-1"), 10);
        assert!(devices.lookup(first, "eu-1").is_some());
    }

    #[test]
    fn a_device_is_found_until_its_subscription_ends() {
        let (manual, first) = (ManualClock::at(NOON), Uuid::now_v7());
        let devices = cache_at(&manual, Duration::from_hours(24), 2);
        devices.insert(first, known("eu-1"), 10);
        manual.set(NOON + Duration::from_millis(3_599_999));
        assert!(devices.lookup(first, "eu-1").is_some());
        manual.advance(Duration::from_millis(1));
        assert!(devices.lookup(first, "eu-1").is_none());
    }

    #[test]
    fn the_disk_hears_of_every_change_and_a_restored_device_is_the_same() {
        let devices = cache(Duration::from_mins(1), 10);
        let [first, second] = [Uuid::now_v7(), Uuid::now_v7()];
        let allowance = devices.insert(first, known("eu-1"), 1_000_000);
        devices.insert(second, known("eu-1"), 10);
        assert_eq!(devices.take_changed().len(), 2);
        allowance.refill();
        assert_eq!(devices.take_changed().len(), 0, "nothing has changed");
        allowance.take();
        devices.forget(second);
        let mut changed = devices.take_changed();
        changed.sort_by_key(|(id, _)| *id != first);
        let [(_, Some(stored)), (gone, None)] = &mut changed[..] else { panic!("{changed:?}") };
        assert_eq!((*gone, stored.left), (second, 875_000));
        let text = serde_json::to_vec(&stored).unwrap();
        let restored: StoredDevice = serde_json::from_slice(&text).unwrap();
        let next = cache(Duration::from_mins(1), 1);
        next.restore(first, restored);
        let (device, allowance) = next.lookup(first, "eu-1").unwrap();
        assert_eq!((device, allowance.left.load(Ordering::Relaxed)), (known_as(&devices, first), 875_000));
        allowance.refill();
        assert_eq!(next.take_changed().len(), 1);
    }

    fn known_as(devices: &OfflineCache, id: Uuid) -> CachedDevice {
        devices.lookup(id, "eu-1").unwrap().0
    }
}
