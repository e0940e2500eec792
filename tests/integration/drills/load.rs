//! A crowd of tunnels, some idle and some always busy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::in_process::{InProcessTunnel, TunnelDialer, fetch};
use crate::support::wait::{TIMEOUT, eventually};

const ENTER_AT_ONCE: usize = 16;
const TRANSFER: u64 = 200_000;
const RETRY: Duration = Duration::from_millis(50);
/// A transfer that takes longer has failed.
const TRANSFER_MAX: Duration = Duration::from_secs(20);

pub(super) struct Crowd {
    idle: Vec<InProcessTunnel>,
    busy: Vec<Busy>,
    stop: watch::Sender<bool>,
}

struct Busy {
    /// When the latest successful transfer began.
    served: watch::Receiver<Option<Instant>>,
    task: JoinHandle<Tally>,
}

/// What the busy tunnels observed.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) got: u64,
    pub(super) transfers: u64,
    pub(super) failures: u64,
    /// Failures that looked like a regular end.
    pub(super) cut_short: u64,
    pub(super) slowest: Duration,
}

/// Opens tunnels, a few at a time.
pub(super) async fn tunnels(dialer: &TunnelDialer, count: usize) -> Vec<InProcessTunnel> {
    let lanes = (0..ENTER_AT_ONCE.min(count)).map(|lane| async move {
        let mut entered = Vec::new();
        for _ in (lane..count).step_by(ENTER_AT_ONCE) {
            entered.push(eventually(|| dialer.enter()).await);
        }
        entered
    });
    futures_util::future::join_all(lanes).await.into_iter().flatten().collect()
}

impl Crowd {
    pub(super) async fn gather(dialer: &TunnelDialer, source: SocketAddr, idle: usize, busy: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let idle = tunnels(dialer, idle).await;
        let busy = (0..busy)
            .map(|_| {
                let (told, served) = watch::channel(None);
                let work = work(dialer.clone(), source, stopped.clone(), told);
                Busy { served, task: tokio::spawn(work) }
            })
            .collect();
        let mut crowd = Self { idle, busy, stop };
        crowd.served_since(Instant::now()).await;
        crowd
    }

    /// Waits until each busy tunnel completes a transfer that began after a moment; returns how long that took.
    pub(super) async fn served_since(&mut self, moment: Instant) -> Duration {
        for busy in &mut self.busy {
            let served = busy.served.wait_for(|begun| begun.is_some_and(|begun| begun >= moment));
            tokio::time::timeout(TIMEOUT, served).await.expect("served again").unwrap();
        }
        moment.elapsed()
    }

    /// The number of idle tunnels that are gone.
    pub(super) fn lost(&self) -> usize {
        self.idle.iter().filter(|idle| !idle.tunnel.is_open()).count()
    }

    /// Ends the transfers, then every tunnel.
    pub(super) async fn leave(self) -> Tally {
        self.stop.send_replace(true);
        let mut all = Tally::default();
        for busy in self.busy {
            let tally = tokio::time::timeout(TIMEOUT, busy.task).await.expect("a lane ends").unwrap();
            all.got += tally.got;
            all.transfers += tally.transfers;
            all.failures += tally.failures;
            all.cut_short += tally.cut_short;
            all.slowest = all.slowest.max(tally.slowest);
        }
        all
    }
}

async fn work(
    dialer: TunnelDialer,
    source: SocketAddr,
    stopped: watch::Receiver<bool>,
    told: watch::Sender<Option<Instant>>,
) -> Tally {
    let mut tally = Tally::default();
    while !*stopped.borrow() {
        let Ok(session) = dialer.enter().await else {
            tally.failures += 1;
            tokio::time::sleep(RETRY).await;
            continue;
        };
        while !*stopped.borrow() && session.tunnel.is_open() {
            let begun = Instant::now();
            match tokio::time::timeout(TRANSFER_MAX, fetch(&session.tunnel, source, TRANSFER)).await {
                Ok((got, Ok(()))) if got < TRANSFER => {
                    tally.got += got;
                    tally.cut_short += 1;
                    tally.failures += 1;
                    tokio::time::sleep(RETRY).await;
                }
                Ok((got, Ok(()))) => {
                    tally.got += got;
                    tally.transfers += 1;
                    tally.slowest = tally.slowest.max(begun.elapsed());
                    told.send_replace(Some(begun));
                }
                Ok((got, Err(_))) => {
                    tally.got += got;
                    tally.failures += 1;
                    tokio::time::sleep(RETRY).await;
                }
                Err(_) => tally.failures += 1,
            }
        }
    }
    tally
}
