use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::support::wait::TIMEOUT;

/// What lanes have completed, and whether they go on.
#[derive(Default)]
pub(crate) struct Progress {
    done: AtomicU64,
    over: AtomicBool,
}

impl Progress {
    pub(crate) fn add(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn done(&self) -> f64 {
        self.done.load(Ordering::Relaxed) as f64
    }
}

/// Runs lanes and returns their rate per second once warm.
pub(crate) async fn rate<F: Future<Output = ()>>(
    progress: &Progress,
    lanes: impl IntoIterator<Item = F>,
    warm_up: Duration,
    time: Duration,
) -> f64 {
    let watch = async {
        sleep(warm_up).await;
        let (before, started) = (progress.done(), Instant::now());
        sleep(time).await;
        let rate = (progress.done() - before) / started.elapsed().as_secs_f64();
        progress.over.store(true, Ordering::Relaxed);
        rate
    };
    tokio::join!(watch, join_all(lanes)).0
}

pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| panic!("not within {TIMEOUT:?}: {what}"))
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The number of users to load; `HTTVPS_BENCH_USERS` overrides it.
pub(crate) fn users() -> u64 {
    const NAME: &str = "HTTVPS_BENCH_USERS";
    match std::env::var(NAME) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{NAME} is not a number: {text}")),
        Err(_) => 1_000_000,
    }
}
