//! Which transport is tried next.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Transport;

/// Transports that may get through, the best first.
#[derive(Clone)]
pub(super) struct Transports {
    all: Vec<Transport>,
    /// How many of them did not get through, and when the last of these was tried.
    failed: usize,
    failed_at: Option<Instant>,
    retry_best_after: Duration,
}

impl Transports {
    pub(super) fn new(all: Vec<Transport>, retry_best_after: Duration) -> Self {
        Self { all, failed: 0, failed_at: None, retry_best_after }
    }

    pub(super) fn contain(&self, transport: Transport) -> bool {
        self.all.contains(&transport)
    }

    /// What is tried now: the best again after a while.
    pub(super) fn next(&mut self) -> Transport {
        if self.failed_at.is_some_and(|at| at.elapsed() >= self.retry_best_after) {
            self.begin_anew();
        }
        self.current()
    }

    /// The one behind those that did not get through, and after the last the first.
    pub(super) fn current(&self) -> Transport {
        let at = self.failed.checked_rem(self.all.len()).unwrap_or(0);
        self.all.get(at).copied().unwrap_or(Transport::Ws)
    }

    /// The current one did not get through.
    pub(super) fn fall_back(&mut self) {
        self.failed = self.failed.wrapping_add(1);
        self.failed_at = Some(Instant::now());
    }

    /// The network is another one: what did not get through may.
    pub(super) fn begin_anew(&mut self) {
        (self.failed, self.failed_at) = (0, None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    const A_WHILE: Duration = Duration::from_mins(10);

    fn all() -> Transports {
        Transports::new(vec![Transport::H2, Transport::H2ws, Transport::Ws], A_WHILE)
    }

    #[tokio::test]
    async fn the_best_is_tried_again_after_a_while() {
        pause();
        let mut transports = all();
        assert_eq!(transports.next(), Transport::H2);
        transports.fall_back();
        assert_eq!(transports.next(), Transport::H2ws);
        advance(A_WHILE / 2).await;
        transports.fall_back();
        assert_eq!(transports.next(), Transport::Ws);
        advance(A_WHILE / 2).await;
        assert_eq!(transports.next(), Transport::Ws, "the last one that failed counts");
        advance(A_WHILE / 2).await;
        assert_eq!(transports.next(), Transport::H2);
        transports.fall_back();
        assert_eq!(transports.next(), Transport::H2ws);
    }

    #[test]
    fn the_best_is_tried_again_in_another_network_and_after_the_last() {
        let mut transports = all();
        transports.fall_back();
        assert_eq!(transports.next(), Transport::H2ws);
        transports.begin_anew();
        assert_eq!(transports.next(), Transport::H2);
        for _ in 0..3 {
            transports.fall_back();
        }
        assert_eq!(transports.next(), Transport::H2);
    }
}
