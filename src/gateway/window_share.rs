//! A tunnel's part of what its connection in HTTP/2 may receive (docs/04, "HTTP/2").

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Counts a tunnel of a connection once it is admitted and until it leaves the connection or this is dropped.
pub(super) struct WindowShare {
    admitted: watch::Sender<usize>,
    is_claimed: Arc<AtomicBool>,
}

impl WindowShare {
    /// A share that is not claimed yet; `admitted` has how many of the connection's are.
    pub(super) fn new(admitted: watch::Sender<usize>) -> Self {
        Self { admitted, is_claimed: Arc::default() }
    }

    /// Tells from elsewhere whether the tunnel was admitted.
    pub(super) fn is_claimed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_claimed)
    }

    /// The tunnel was admitted.
    pub(super) fn claim(&self) {
        if !self.is_claimed.swap(true, Ordering::Relaxed) {
            self.admitted.send_modify(|admitted| *admitted += 1);
        }
    }

    /// It is not on the connection any more.
    pub(super) fn release(&self) {
        if self.is_claimed.swap(false, Ordering::Relaxed) {
            self.admitted.send_modify(|admitted| *admitted -= 1);
        }
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_counts_once_and_until_it_leaves() {
        let (sender, admitted) = watch::channel(0);
        let (left, stays) = (WindowShare::new(sender.clone()), WindowShare::new(sender));
        for share in [&left, &left, &stays] {
            share.claim();
        }
        assert_eq!(*admitted.borrow(), 2);
        left.release();
        assert_eq!(*admitted.borrow(), 1);
        drop((left, stays));
        assert_eq!(*admitted.borrow(), 0);
    }
}
