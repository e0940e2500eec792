use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

/// Sessions that cannot wait for the next regular report.
#[derive(Default)]
pub(crate) struct Urgent {
    sessions: Mutex<Vec<Uuid>>,
    news: Notify,
}

impl Urgent {
    pub(crate) fn add(&self, session: Uuid) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        self.news.notify_one();
    }

    /// Waits until there are any.
    pub(super) async fn wait(&self) {
        self.news.notified().await;
    }

    pub(super) fn take(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
