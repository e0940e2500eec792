//! When a gateway that shuts down, or has a successor, sends its clients away (docs/04, "Drain").

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::config;
use crate::digest::fresh_fraction;

/// Sessions that began during a drain are sent away when this part of it is left.
const LAST_PART: u32 = 4;

#[derive(Clone, Copy, Default)]
struct Phase {
    began: Option<Instant>,
    /// Since when another process has the listeners.
    succeeded: Option<Instant>,
}

/// The drain of a process, from its beginning to its end.
pub(super) struct Drain {
    phase: watch::Sender<Phase>,
    jitter: Duration,
    timeout: Duration,
    moving: Duration,
}

/// What a session is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leave {
    /// When its client is to connect anew, from now.
    pub(super) reconnect_in: Duration,
    /// When a client that was told has moved.
    pub(super) moved: Instant,
    /// When it ends.
    pub(super) due: Instant,
}

impl Drain {
    pub(super) fn new(config: &config::Gateway) -> Self {
        Self {
            phase: watch::Sender::default(),
            jitter: config.drain_jitter,
            timeout: config.drain_timeout,
            moving: config.drain_move,
        }
    }

    /// It begins now, unless it has begun.
    pub(super) fn begin(&self) {
        self.phase.send_modify(|phase| {
            phase.began.get_or_insert_with(Instant::now);
        });
    }

    /// Another process has the listeners: nobody comes here any more.
    pub(super) fn succeed(&self) {
        self.begin();
        self.phase.send_modify(|phase| phase.succeeded = Some(Instant::now()));
    }

    /// Resolves once another process has the listeners.
    pub(super) async fn succeeded(&self) {
        let mut phase = self.phase.subscribe();
        if phase.wait_for(|phase| phase.succeeded.is_some()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when a session that began at a time has to go: at once if it was there when the drain began, or if there is a
    /// successor; else near the end, when balancers have noticed.
    pub(super) async fn leave(&self, born: Instant) -> Leave {
        let mut phase = self.phase.subscribe();
        loop {
            let Phase { began, succeeded } = *phase.borrow_and_update();
            let called = began.map(|began| self.called(began, succeeded.is_some(), born));
            tokio::select! {
                () = at(called) => if let Some(began) = began {
                    return self.leave_of(began, succeeded.is_some(), born);
                },
                changed = phase.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// From when on those who come are sent away at once.
    fn last_call(&self, began: Instant) -> Instant {
        began + self.timeout.saturating_sub((self.timeout / LAST_PART).max(self.jitter))
    }

    fn called(&self, began: Instant, has_successor: bool, born: Instant) -> Instant {
        if has_successor || born <= began { began } else { self.last_call(began) }
    }

    /// A session that came after the last call would only come back here, so it waits for the end.
    fn leave_of(&self, began: Instant, has_successor: bool, born: Instant) -> Leave {
        let (now, due) = (Instant::now(), began + self.timeout);
        let jitter = self.jitter.mul_f64(fresh_fraction());
        let is_late = !has_successor && born > self.last_call(began);
        let reconnect_in = if is_late { due.saturating_duration_since(now) + jitter } else { jitter };
        Leave { reconnect_in, moved: now + reconnect_in + self.moving, due }
    }

    /// Whether nothing is left to wait for: so many sessions are open, and other tasks of clients run or not.
    pub(super) fn is_over(&self, sessions: usize, is_idle: bool) -> bool {
        let Phase { began, succeeded } = *self.phase.borrow();
        let (Some(began), now) = (began, Instant::now()) else { return false };
        let earliest = succeeded.unwrap_or(began + self.jitter);
        let is_left = sessions == 0 && now >= earliest && (is_idle || now >= earliest + self.moving);
        is_left || now >= began + self.timeout
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn drain() -> Drain {
        Drain { phase: watch::Sender::default(), jitter: SECOND * 5, timeout: SECOND * 40, moving: SECOND * 3 }
    }

    /// When a session is told, from the drain's beginning, and what.
    async fn told(drain: &Drain, born: Instant, began: Instant) -> (Duration, Leave) {
        let leave = drain.leave(born).await;
        (Instant::now() - began, leave)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_there_goes_at_once_and_who_comes_later_near_the_end() {
        let (drain, before) = (drain(), Instant::now());
        advance(SECOND).await;
        let began = Instant::now();
        let (first, ()) = tokio::join!(drain.leave(before), async { drain.begin() });
        assert_eq!((Instant::now(), first.due), (began, began + SECOND * 40));
        assert!(first.reconnect_in <= SECOND * 5 && first.moved == began + first.reconnect_in + SECOND * 3);
        let (at, second) = told(&drain, began + SECOND, began).await;
        assert!(at == SECOND * 30 && second.reconnect_in <= SECOND * 5 && second.due == first.due, "{at:?} {second:?}");
        advance(SECOND).await;
        let (at, third) = told(&drain, Instant::now(), began).await;
        assert_eq!(at, SECOND * 31);
        assert!((SECOND * 9..=SECOND * 14).contains(&third.reconnect_in), "{third:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_successor_everybody_goes_at_once() {
        let (drain, began) = (drain(), Instant::now());
        drain.begin();
        advance(SECOND * 2).await;
        let later = async {
            advance(SECOND * 4).await;
            drain.succeed();
        };
        let ((at, leave), ()) = tokio::join!(told(&drain, began + SECOND, began), later);
        assert!(at == SECOND * 6 && leave.reconnect_in <= SECOND * 5, "{at:?} {leave:?}");
        drain.succeeded().await;
        assert!(drain.is_over(0, true) && !drain.is_over(0, false) && !drain.is_over(1, true));
        advance(SECOND * 3).await;
        assert!(drain.is_over(0, false) && !drain.is_over(1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_without_sessions_once_balancers_had_time_to_notice_or_at_its_end() {
        let drain = drain();
        assert!(!drain.is_over(0, true));
        drain.begin();
        assert!(!drain.is_over(0, true));
        advance(SECOND * 5).await;
        assert!(drain.is_over(0, true) && !drain.is_over(0, false));
        advance(SECOND * 34).await;
        assert!(!drain.is_over(1, false));
        advance(SECOND).await;
        assert!(drain.is_over(1, false));
    }
}
