//! A tunnel's part of what its connection in HTTP/2 may receive (docs/04, "HTTP/2").

use tokio::sync::watch;

/// Counts a tunnel of a connection once it is admitted and until this is dropped.
pub(super) struct Lane {
    admitted: watch::Sender<usize>,
    is_wide: bool,
}

impl Lane {
    /// A lane that is not wide yet; `admitted` has how many of the connection's are.
    pub(super) fn new(admitted: watch::Sender<usize>) -> Self {
        Self { admitted, is_wide: false }
    }

    /// The tunnel was admitted.
    pub(super) fn widen(&mut self) {
        if !std::mem::replace(&mut self.is_wide, true) {
            self.admitted.send_modify(|admitted| *admitted += 1);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.is_wide {
            self.admitted.send_modify(|admitted| *admitted -= 1);
        }
    }
}
