//! A plan's rate, one for all sessions of a device on this gateway (docs/04, "Rates").

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::config::RateLimit;
use crate::mux::Pacer;

const BYTES_PER_MEGABIT: u64 = 125_000;
/// The least that is worth a turn of its own.
const MIN_CHUNK: u64 = 2 * 1024;
const SWEEP_AT: usize = 1024;

/// Both directions of a device, each with the whole rate.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    /// 0 is no limit.
    bytes_per_second: AtomicU64,
    config: RateLimit,
    begun: Instant,
    up: Bucket,
    down: Bucket,
}

/// A virtual queue: when what was let through so far will have left at the rate, in nanoseconds since the start.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Bucket {
    fn charge(&self, bytes: usize, rate: u64, passed: Duration, burst: Duration) -> Option<Duration> {
        let cost = nanos(Duration::from_secs(bytes as u64)) / rate.max(1);
        let earliest = nanos(passed).saturating_sub(nanos(burst));
        let after = |empty: u64| empty.max(earliest).saturating_add(cost);
        let before = match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty| Some(after(empty))) {
            Ok(before) | Err(before) => before,
        };
        let empty = Duration::from_nanos(after(before));
        (empty > passed).then_some(empty)
    }
}

impl RateLimiter {
    /// One that limits nothing yet.
    pub(crate) fn new(config: RateLimit) -> Self {
        Self {
            bytes_per_second: AtomicU64::new(0),
            config,
            begun: Instant::now(),
            up: Bucket::default(),
            down: Bucket::default(),
        }
    }

    /// The plan's rate as it is now, for all sessions of the device.
    pub(crate) fn set(&self, megabits: Option<i32>) {
        let megabits = megabits.and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0);
        self.bytes_per_second.store(megabits.saturating_mul(BYTES_PER_MEGABIT), Ordering::Relaxed);
    }

    fn charge(&self, bucket: &Bucket, bytes: usize) -> Option<Instant> {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let burst = self.config.burst;
        let until = bucket.charge(bytes, rate, self.begun.elapsed().saturating_add(burst), burst)?;
        self.begun.checked_add(until.saturating_sub(burst))
    }

    /// Bytes went up; gives when the stream may send more.
    pub(crate) fn up(&self, bytes: usize) -> Option<Instant> {
        self.charge(&self.up, bytes)
    }

    /// Bytes came down; gives when the stream may read more.
    pub(crate) fn down(&self, bytes: usize) -> Option<Instant> {
        self.charge(&self.down, bytes)
    }

    /// The most bytes of one turn.
    pub(crate) fn chunk_limit(&self) -> usize {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return usize::MAX;
        }
        let turn = rate.saturating_mul(nanos(self.config.turn)) / nanos(Duration::from_secs(1));
        usize::try_from(turn.max(MIN_CHUNK)).unwrap_or(usize::MAX)
    }
}

impl Pacer for RateLimiter {
    fn idle(&self, bytes: usize) -> Option<std::time::Instant> {
        self.up(bytes).map(Instant::into_std)
    }
}

/// The rate limiters of devices that have sessions.
pub(crate) struct RateLimiters {
    config: RateLimit,
    limiters: Mutex<HashMap<Uuid, Weak<RateLimiter>>>,
}

impl RateLimiters {
    /// None yet.
    pub(crate) fn new(config: RateLimit) -> Self {
        Self { config, limiters: Mutex::default() }
    }

    /// The rate limiter of a device, shared by its sessions; the newest word on its rate holds for all.
    pub(crate) fn of(&self, device: Uuid, megabits: Option<i32>) -> Arc<RateLimiter> {
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        let open = limiters.get(&device).and_then(Weak::upgrade);
        let limiter = open.unwrap_or_else(|| {
            if limiters.len() >= SWEEP_AT && limiters.len().is_power_of_two() {
                limiters.retain(|_, limiter| limiter.strong_count() > 0);
            }
            let limiter = Arc::new(RateLimiter::new(self.config));
            limiters.insert(device, Arc::downgrade(&limiter));
            limiter
        });
        limiter.set(megabits);
        limiter
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn limiters() -> RateLimiters {
        RateLimiters::new(Source::with::<&str, &str>([]).unwrap().section().unwrap())
    }

    /// Lets streams take chunks in turn as a relay does; gives the bytes of a time.
    async fn moved(limiter: &RateLimiter, streams: usize, over: Duration) -> u64 {
        let end = Instant::now() + over;
        let relays = (0..streams).map(|_| async move {
            let mut bytes = 0;
            while Instant::now() < end {
                let chunk = limiter.chunk_limit();
                bytes += chunk as u64;
                if let Some(until) = limiter.down(chunk) {
                    tokio::time::sleep_until(until).await;
                }
            }
            bytes
        });
        futures_util::future::join_all(relays).await.iter().sum()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_within_five_per_cent() {
        let limiters = limiters();
        for (megabits, streams) in [(1, 1), (10, 1), (10, 20), (100, 20), (1000, 3)] {
            let limiter = limiters.of(Uuid::now_v7(), Some(megabits));
            let moved = moved(&limiter, streams, Duration::from_secs(20)).await;
            let expected = f64::from(megabits) * 125_000.0 * 20.0;
            let ratio = moved as f64 / expected;
            assert!((0.97..1.05).contains(&ratio), "{megabits} Mbit/s, {streams} streams: {ratio}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn directions_are_apart_and_sessions_of_a_device_are_not() {
        let limiters = limiters();
        let device = Uuid::now_v7();
        let first = limiters.of(device, Some(8));
        let second = limiters.of(device, Some(8));
        assert!(first.up(1_000_000).unwrap() > Instant::now() + Duration::from_millis(900));
        assert_eq!(first.down(1000), None, "the other direction is free");
        assert!(second.up(1).unwrap() > Instant::now() + Duration::from_millis(900));
        let other = Uuid::now_v7();
        assert_eq!(limiters.of(other, None).up(1_000_000), None);
        assert_eq!(limiters.of(other, None).chunk_limit(), usize::MAX);
        let free = limiters.of(device, None);
        assert_eq!(free.down(1_000_000), None, "the newest session's plan holds for all");
        drop((first, second, free));
        assert_eq!(limiters.of(device, Some(8)).up(1000), None, "a new session begins anew");
    }
}
