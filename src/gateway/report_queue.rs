use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

/// Sessions to report before the next regular report.
#[derive(Default)]
pub(crate) struct ReportQueue {
    sessions: Mutex<Vec<Uuid>>,
    changed: Notify,
}

impl ReportQueue {
    pub(crate) fn add(&self, session: Uuid) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        self.changed.notify_one();
    }

    /// Waits until there are any.
    pub(super) async fn wait(&self) {
        self.changed.notified().await;
    }

    pub(super) fn take(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
