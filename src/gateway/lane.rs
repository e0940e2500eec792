//! A tunnel's part of what its connection in HTTP/2 may receive (docs/04, "HTTP/2").

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Counts a tunnel of a connection once it is admitted and until it leaves the connection or this is dropped.
pub(super) struct Lane {
    admitted: watch::Sender<usize>,
    is_wide: Arc<AtomicBool>,
}

impl Lane {
    /// A lane that is not wide yet; `admitted` has how many of the connection's are.
    pub(super) fn new(admitted: watch::Sender<usize>) -> Self {
        Self { admitted, is_wide: Arc::default() }
    }

    /// Tells from elsewhere whether the tunnel was admitted.
    pub(super) fn is_wide(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_wide)
    }

    /// The tunnel was admitted.
    pub(super) fn widen(&self) {
        if !self.is_wide.swap(true, Ordering::Relaxed) {
            self.admitted.send_modify(|admitted| *admitted += 1);
        }
    }

    /// It is not on the connection any more.
    pub(super) fn narrow(&self) {
        if self.is_wide.swap(false, Ordering::Relaxed) {
            self.admitted.send_modify(|admitted| *admitted -= 1);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.narrow();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_counts_once_and_until_it_leaves() {
        let (sender, admitted) = watch::channel(0);
        let (left, stays) = (Lane::new(sender.clone()), Lane::new(sender));
        for lane in [&left, &left, &stays] {
            lane.widen();
        }
        assert_eq!(*admitted.borrow(), 2);
        left.narrow();
        assert_eq!(*admitted.borrow(), 1);
        drop((left, stays));
        assert_eq!(*admitted.borrow(), 0);
    }
}
