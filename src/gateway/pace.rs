//! A plan's rate, one for all sessions of a device on this gateway (docs/04, "Rates").

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::mux::Pacer;

const BYTES_OF_A_MEGABIT: u64 = 125_000;
/// A device that was idle may send for so long at once.
const BURST: Duration = Duration::from_millis(50);
/// One stream has its turn for so long.
const TURN: Duration = Duration::from_millis(10);
const LEAST_PIECE: u64 = 2 * 1024;
const SWEEP_AT: usize = 1024;

/// Both directions of a device, each with the whole rate.
#[derive(Debug)]
pub(crate) struct Pace {
    /// 0 is no limit.
    bytes_per_second: AtomicU64,
    begun: Instant,
    up: Lane,
    down: Lane,
}

/// A virtual queue: when what was let through so far will have left at the rate, in nanoseconds since the start.
#[derive(Debug, Default)]
struct Lane(AtomicU64);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Lane {
    fn charge(&self, bytes: usize, rate: u64, passed: Duration) -> Option<Duration> {
        let cost = nanos(Duration::from_secs(bytes as u64)) / rate.max(1);
        let earliest = nanos(passed).saturating_sub(nanos(BURST));
        let after = |empty: u64| empty.max(earliest).saturating_add(cost);
        let before = match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty| Some(after(empty))) {
            Ok(before) | Err(before) => before,
        };
        let empty = Duration::from_nanos(after(before));
        (empty > passed).then_some(empty)
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes_per_second: AtomicU64::new(0), begun: Instant::now(), up: Lane::default(), down: Lane::default() }
    }
}

impl Pace {
    /// The plan's rate as it is now, for all sessions of the device.
    pub(crate) fn set(&self, megabits: Option<i32>) {
        let megabits = megabits.and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0);
        self.bytes_per_second.store(megabits.saturating_mul(BYTES_OF_A_MEGABIT), Ordering::Relaxed);
    }

    fn charge(&self, lane: &Lane, bytes: usize) -> Option<Instant> {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let until = lane.charge(bytes, rate, self.begun.elapsed().saturating_add(BURST))?;
        self.begun.checked_add(until.saturating_sub(BURST))
    }

    /// Bytes went up; gives when the stream may send more.
    pub(crate) fn up(&self, bytes: usize) -> Option<Instant> {
        self.charge(&self.up, bytes)
    }

    /// Bytes came down; gives when the stream may read more.
    pub(crate) fn down(&self, bytes: usize) -> Option<Instant> {
        self.charge(&self.down, bytes)
    }

    /// Bytes of one turn.
    pub(crate) fn piece(&self) -> usize {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return usize::MAX;
        }
        let turn = rate.saturating_mul(nanos(TURN)) / nanos(Duration::from_secs(1));
        usize::try_from(turn.max(LEAST_PIECE)).unwrap_or(usize::MAX)
    }
}

impl Pacer for Pace {
    fn idle(&self, bytes: usize) -> Option<std::time::Instant> {
        self.up(bytes).map(Instant::into_std)
    }
}

/// The paces of devices that have sessions.
#[derive(Default)]
pub(crate) struct Paces(Mutex<HashMap<Uuid, Weak<Pace>>>);

impl Paces {
    /// The pace of a device, shared by its sessions; the newest word on its rate holds for all.
    pub(crate) fn of(&self, device: Uuid, megabits: Option<i32>) -> Arc<Pace> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = paces.get(&device).and_then(Weak::upgrade);
        let pace = open.unwrap_or_else(|| {
            if paces.len() >= SWEEP_AT && paces.len().is_power_of_two() {
                paces.retain(|_, pace| pace.strong_count() > 0);
            }
            let pace = Arc::new(Pace::default());
            paces.insert(device, Arc::downgrade(&pace));
            pace
        });
        pace.set(megabits);
        pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets streams take pieces in turn as a relay does; gives the bytes of a time.
    async fn moved(pace: &Pace, streams: usize, over: Duration) -> u64 {
        let end = Instant::now() + over;
        let lanes = (0..streams).map(|_| async move {
            let mut bytes = 0;
            while Instant::now() < end {
                let piece = pace.piece();
                bytes += piece as u64;
                if let Some(until) = pace.down(piece) {
                    tokio::time::sleep_until(until).await;
                }
            }
            bytes
        });
        futures_util::future::join_all(lanes).await.iter().sum()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_within_five_per_cent() {
        let paces = Paces::default();
        for (megabits, streams) in [(1, 1), (10, 1), (10, 20), (100, 20), (1000, 3)] {
            let pace = paces.of(Uuid::now_v7(), Some(megabits));
            let moved = moved(&pace, streams, Duration::from_secs(20)).await;
            let expected = f64::from(megabits) * 125_000.0 * 20.0;
            let ratio = moved as f64 / expected;
            assert!((0.97..1.05).contains(&ratio), "{megabits} Mbit/s, {streams} streams: {ratio}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn directions_are_apart_and_sessions_of_a_device_are_not() {
        let paces = Paces::default();
        let device = Uuid::now_v7();
        let first = paces.of(device, Some(8));
        let second = paces.of(device, Some(8));
        assert!(first.up(1_000_000).unwrap() > Instant::now() + Duration::from_millis(900));
        assert_eq!(first.down(1000), None, "the other direction is free");
        assert!(second.up(1).unwrap() > Instant::now() + Duration::from_millis(900));
        let other = Uuid::now_v7();
        assert_eq!(paces.of(other, None).up(1_000_000), None);
        assert_eq!(paces.of(other, None).piece(), usize::MAX);
        let free = paces.of(device, None);
        assert_eq!(free.down(1_000_000), None, "the newest session's plan holds for all");
        drop((first, second, free));
        assert_eq!(paces.of(device, Some(8)).up(1000), None, "a new session begins anew");
    }
}
