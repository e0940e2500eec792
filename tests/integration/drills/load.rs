//! Tunnels under way: some do nothing, some always move something.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::in_process::{Entrance, InProcess, fetch};
use crate::support::wait::{PATIENCE, eventually};

const ENTER_AT_ONCE: usize = 16;
const TRANSFER: u64 = 200_000;
const RETRY: Duration = Duration::from_millis(50);
/// A transfer that takes longer has failed.
const TRANSFER_MAX: Duration = Duration::from_secs(20);

pub(super) struct Crowd {
    idle: Vec<InProcess>,
    busy: Vec<Busy>,
    stop: watch::Sender<bool>,
}

struct Busy {
    /// When the newest transfer that succeeded had begun.
    served: watch::Receiver<Option<Instant>>,
    task: JoinHandle<Tally>,
}

/// What the busy tunnels saw.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) got: u64,
    pub(super) transfers: u64,
    pub(super) failures: u64,
    /// Failures that looked like the end.
    pub(super) cut_short: u64,
    pub(super) slowest: Duration,
}

/// So many tunnels, a few at once.
pub(super) async fn tunnels(entrance: &Entrance, count: usize) -> Vec<InProcess> {
    let lanes = (0..ENTER_AT_ONCE.min(count)).map(|lane| async move {
        let mut entered = Vec::new();
        for _ in (lane..count).step_by(ENTER_AT_ONCE) {
            entered.push(eventually(|| entrance.enter()).await);
        }
        entered
    });
    futures_util::future::join_all(lanes).await.into_iter().flatten().collect()
}

impl Crowd {
    pub(super) async fn gather(entrance: &Entrance, source: SocketAddr, idle: usize, busy: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let idle = tunnels(entrance, idle).await;
        let busy = (0..busy)
            .map(|_| {
                let (told, served) = watch::channel(None);
                let work = work(entrance.clone(), source, stopped.clone(), told);
                Busy { served, task: tokio::spawn(work) }
            })
            .collect();
        let mut crowd = Self { idle, busy, stop };
        crowd.served_since(Instant::now()).await;
        crowd
    }

    /// Waits until each busy tunnel was served what it asked for after a moment; gives how long after it that was.
    pub(super) async fn served_since(&mut self, moment: Instant) -> Duration {
        for busy in &mut self.busy {
            let served = busy.served.wait_for(|begun| begun.is_some_and(|begun| begun >= moment));
            tokio::time::timeout(PATIENCE, served).await.expect("served again").unwrap();
        }
        moment.elapsed()
    }

    /// Idle tunnels that are gone.
    pub(super) fn lost(&self) -> usize {
        self.idle.iter().filter(|idle| !idle.tunnel.is_open()).count()
    }

    /// Ends what is under way, then every tunnel.
    pub(super) async fn leave(self) -> Tally {
        self.stop.send_replace(true);
        let mut all = Tally::default();
        for busy in self.busy {
            let tally = tokio::time::timeout(PATIENCE, busy.task).await.expect("a lane ends").unwrap();
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
    entrance: Entrance,
    source: SocketAddr,
    stopped: watch::Receiver<bool>,
    told: watch::Sender<Option<Instant>>,
) -> Tally {
    let mut tally = Tally::default();
    while !*stopped.borrow() {
        let Ok(session) = entrance.enter().await else {
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
