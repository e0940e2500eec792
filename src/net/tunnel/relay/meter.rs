use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep};

use crate::net::buffered::CHUNK;

/// Counts payload bytes as the socket takes and gives them, and paces them.
pub trait Meter {
    /// Gives when to look again, if nothing may move now.
    fn hold(&self) -> Option<Instant>;
    /// The socket took bytes of the tunnel's; gives when it may take more, if not now.
    fn sent(&self, bytes: usize) -> Option<Instant>;
    /// The socket gave bytes for the tunnel; gives when it may give more, if not now.
    fn received(&self, bytes: usize) -> Option<Instant>;
    /// Most bytes to move at once.
    fn chunk_limit(&self) -> usize;
}

/// Counts nothing.
impl Meter for () {
    fn hold(&self) -> Option<Instant> {
        None
    }

    fn sent(&self, _: usize) -> Option<Instant> {
        None
    }

    fn received(&self, _: usize) -> Option<Instant> {
        None
    }

    fn chunk_limit(&self) -> usize {
        CHUNK
    }
}

/// A direction that waits for its rate.
#[derive(Default)]
pub(super) struct Pause(Option<Pin<Box<Sleep>>>);

impl Pause {
    pub(super) fn until(&mut self, at: Option<Instant>) {
        if let Some(at) = at {
            match &mut self.0 {
                Some(sleep) => sleep.as_mut().reset(at),
                None => self.0 = Some(Box::pin(tokio::time::sleep_until(at))),
            }
        }
    }

    /// Whether the time has not come.
    pub(super) fn holds(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(sleep) = &mut self.0 else { return false };
        if sleep.as_mut().poll(cx).is_pending() {
            return true;
        }
        self.0 = None;
        false
    }

    /// Whether the time has not come, or the meter lets nothing move; asked when there is something to move.
    pub(super) fn withholds(&mut self, cx: &mut Context<'_>, meter: &impl Meter) -> bool {
        while !self.holds(cx) {
            let hold = meter.hold();
            if hold.is_none() {
                return false;
            }
            self.until(hold);
        }
        true
    }
}
