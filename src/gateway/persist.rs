//! What the gateway would have to know if it started without the control plane (docs/04, "On disk").

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::Notify;
use uuid::Uuid;

use super::control_clock::ControlClock;
use super::offline::{OfflineCache, StoredDevice};
use super::store::{Changes, Entries, Store, StoreError};
use crate::digest::sha256_hex;
use crate::lifecycle::Shutdown;

const DEVICE: &str = "device/";

/// What is kept besides devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Keys,
    Nodes,
    Orders,
    Cursor,
    Clock,
    Origin,
}

impl Name {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Nodes => "nodes",
            Self::Orders => "orders",
            Self::Cursor => "place",
            Self::Clock => "clock",
            Self::Origin => "origin",
        }
    }
}

/// What the control plane wants of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) drain: bool,
    /// Why it does not want the gateway, if it does not.
    pub(super) unwelcome: Option<String>,
}

/// When something was last written, by the corrected clock, and how far the system's was ahead then.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Written {
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    ahead_ms: i64,
}

/// What an earlier process had kept.
pub(super) struct SavedState(HashMap<String, Vec<u8>>);

impl SavedState {
    /// One thing, if it is there.
    pub(super) fn get<T: DeserializeOwned>(&self, name: Name) -> Option<T> {
        serde_json::from_slice(self.0.get(name.as_str())?).ok()
    }

    /// The devices.
    pub(super) fn devices(&self) -> impl Iterator<Item = (Uuid, StoredDevice)> + '_ {
        self.0.iter().filter_map(|(name, value)| {
            let id = name.strip_prefix(DEVICE)?.parse().ok()?;
            Some((id, serde_json::from_slice(value).ok()?))
        })
    }

    /// Sets the clock by what was measured, so that time does not run backwards; whether what was kept is young enough.
    pub(super) fn set_clock(&self, clock: &ControlClock, max_age: Duration) -> bool {
        let Some(written) = self.get::<Written>(Name::Clock) else { return false };
        let now = resumed(clock.system().now(), written);
        clock.resume(now);
        now - written.at < max_age
    }
}

/// The corrected time, if the system's clock is as far off as it was; if it cannot be, by the system's clock; but never
/// before what was written.
fn resumed(system: OffsetDateTime, written: Written) -> OffsetDateTime {
    let corrected = system - time::Duration::milliseconds(written.ahead_ms);
    if corrected >= written.at { corrected } else { system.max(written.at) }
}

/// Writes what has changed, together.
pub(super) struct Persist {
    store: Store,
    pending: Mutex<HashMap<&'static str, Vec<u8>>>,
    /// Digests of what the disk has.
    written: Mutex<HashMap<&'static str, String>>,
    changed: Notify,
    flushing: tokio::sync::Mutex<()>,
    failing: AtomicBool,
    /// Another process has the store, or may have it.
    released: AtomicBool,
    every: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Persist {
    /// Opens the store in a folder; what was kept of another control plane is not used.
    pub(super) fn open(folder: &Path, control_url: &str, every: Duration) -> Result<(Self, SavedState), StoreError> {
        let (store, entries) = Store::open(folder)?;
        let persist = Self {
            store,
            pending: Mutex::default(),
            written: Mutex::default(),
            changed: Notify::new(),
            flushing: tokio::sync::Mutex::default(),
            failing: AtomicBool::new(false),
            released: AtomicBool::new(false),
            every,
        };
        let kept = SavedState(of_origin(entries, control_url));
        if kept.0.is_empty() {
            persist.clear();
        }
        persist.set(Name::Origin, &control_url);
        Ok((persist, kept))
    }

    /// Nothing of what was kept is good any more.
    pub(super) fn clear(&self) {
        if let Err(reason) = self.store.clear() {
            tracing::error!(%reason, "failed to clear the offline state");
        }
    }

    /// Keeps one thing.
    pub(super) fn set(&self, name: Name, value: &impl Serialize) {
        let value = match serde_json::to_vec(value) {
            Ok(value) => value,
            Err(error) => return tracing::error!(%error, name = name.as_str(), "failed to serialize offline state"),
        };
        let digest = sha256_hex(&value);
        if lock(&self.written).insert(name.as_str(), digest.clone()).is_some_and(|before| before == digest) {
            return;
        }
        lock(&self.pending).insert(name.as_str(), value);
        self.changed.notify_one();
    }

    /// Notes the time with what is written next.
    pub(super) fn set_time(&self, clock: &ControlClock) {
        self.set(Name::Clock, &Written { at: clock.now(), ahead_ms: clock.ahead() });
    }

    /// Writes changes soon after they were made, at most so often, until drained, and then what is left.
    pub(super) async fn run(&self, devices: &OfflineCache, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.draining() => break,
                () = self.changed.notified() => {}
                () = devices.changed().notify.notified() => {}
            }
            self.flush(devices).await;
            tokio::select! {
                () = shutdown.draining() => break,
                () = tokio::time::sleep(self.every) => {}
            }
        }
        self.flush(devices).await;
    }

    /// Writes what has changed, now.
    pub(super) async fn flush(&self, devices: &OfflineCache) {
        let _turn = self.flushing.lock().await;
        if !self.released.load(Ordering::Relaxed) {
            self.write(devices).await;
        }
    }

    /// Writes what has changed and leaves the store to another process.
    pub(super) async fn release(&self, devices: &OfflineCache) {
        let _turn = self.flushing.lock().await;
        self.write(devices).await;
        self.released.store(true, Ordering::Relaxed);
        self.store.close();
    }

    /// The other process does not want it.
    pub(super) async fn resume(&self, devices: &OfflineCache) {
        if self.released.swap(false, Ordering::Relaxed) {
            self.flush(devices).await;
        }
    }

    async fn write(&self, devices: &OfflineCache) {
        let named = std::mem::take(&mut *lock(&self.pending));
        let mut changes: Changes = named.into_iter().map(|(name, value)| (name.to_owned(), Some(value))).collect();
        let changed = devices.take_changed();
        let ids: Vec<Uuid> = changed.iter().map(|(id, _)| *id).collect();
        changes.extend(
            changed.into_iter().map(|(id, stored)| {
                (format!("{DEVICE}{id}"), stored.and_then(|stored| serde_json::to_vec(&stored).ok()))
            }),
        );
        if changes.is_empty() {
            return;
        }
        match self.store.write(changes).await {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("offline state is written to disk again");
                }
            }
            Err((changes, reason)) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%reason, "failed to write offline state");
                }
                self.take_back(changes);
                devices.changed().add(ids);
            }
        }
    }

    /// What somebody should know: that outages are not prepared for.
    pub(super) fn complaint(&self) -> Option<String> {
        let failing = self.failing.load(Ordering::Relaxed).then(|| "it cannot be written".to_owned());
        let reason = self.store.unkept.as_ref().map(ToString::to_string).or(failing)?;
        Some(format!("state.db is of no use, so revocations are forgotten by a restart in an outage: {reason}"))
    }

    /// What could not be written waits, unless there is something newer by now.
    fn take_back(&self, changes: Changes) {
        let mut pending = lock(&self.pending);
        for (name, value) in changes {
            let known = [Name::Keys, Name::Nodes, Name::Orders, Name::Cursor, Name::Clock, Name::Origin];
            if let (Some(known), Some(value)) = (known.into_iter().find(|known| known.as_str() == name), value) {
                pending.entry(known.as_str()).or_insert(value);
            }
        }
    }
}

/// Entries that were kept of this control plane.
fn of_origin(entries: Entries, control_url: &str) -> HashMap<String, Vec<u8>> {
    let kept: HashMap<String, Vec<u8>> = entries.into_iter().collect();
    let origin = kept.get(Name::Origin.as_str());
    let same = origin.and_then(|origin| serde_json::from_slice::<String>(origin).ok());
    match same {
        Some(origin) if origin == control_url => kept,
        Some(_) => {
            tracing::warn!("ignoring offline state of another control plane");
            HashMap::new()
        }
        None => HashMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::macros::datetime;

    use super::*;
    use crate::clock::Clock;
    use crate::config::Offline;
    use crate::gateway::control_clock::tests::config;
    use crate::gateway::metrics::GatewayMetrics;

    #[test]
    fn time_is_corrected_as_before_and_never_runs_backwards() {
        let at = datetime!(2026-11-28 12:00 UTC);
        let minute = time::Duration::MINUTE;
        let slow = Written { at, ahead_ms: -90_000 };
        assert_eq!(resumed(at, slow), at + minute * 1.5, "the clock is still slow");
        let fast = Written { at, ahead_ms: 3_600_000 };
        assert_eq!(resumed(at + minute * 61, fast), at + minute, "still fast");
        assert_eq!(resumed(at + minute, fast), at + minute, "it was set right meanwhile");
        assert_eq!(resumed(at - minute * 99, slow), at, "it was set back");
    }

    #[tokio::test]
    async fn what_is_kept_is_there_again_but_not_for_another_control_plane() {
        let folder = tempfile::tempdir().unwrap();
        let open = |url: &str| Persist::open(folder.path(), url, Duration::from_secs(1)).unwrap();
        let orders = Orders { drain: true, unwelcome: Some("UNAUTHORIZED".into()) };
        let clock = ControlClock::new(Clock::system(), config(), &GatewayMetrics::new());
        let config = Offline {
            max_age: Duration::from_mins(1),
            devices: 10,
            regions: 16,
            flush_interval: Duration::from_secs(1),
        };
        let cache = OfflineCache::new(config, Arc::new(clock));
        let (persist, kept) = open("https://one");
        assert_eq!(kept.get::<Orders>(Name::Orders), None);
        persist.set(Name::Orders, &orders);
        persist.flush(&cache).await;
        persist.set(Name::Orders, &orders);
        assert!(lock(&persist.pending).is_empty(), "the disk has it");
        drop(persist);
        let (persist, kept) = open("https://one");
        assert_eq!(kept.get::<Orders>(Name::Orders), Some(orders));
        drop(persist);
        let (persist, kept) = open("https://two");
        assert_eq!(kept.get::<Orders>(Name::Orders), None);
        persist.flush(&cache).await;
        drop(persist);
        assert_eq!(open("https://two").1.get::<Orders>(Name::Orders), None, "what the other said is gone");
    }
}
