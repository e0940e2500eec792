//! Keeps counters on disk, so that a crash loses at most the last flush.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::{Account, Usage, lock};
use crate::gateway::journal::{JournalEntry, JournalError};
use crate::lifecycle::Shutdown;

impl Usage {
    pub(super) async fn keep_flushing(&self, shutdown: &Shutdown) {
        let mut flush = interval(self.config.flush_interval);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                _ = flush.tick() => if !self.flush().await {
                    self.ended.notify_one();
                },
            }
        }
    }

    /// Takes over what processes that are gone have not reported.
    pub(super) async fn adopt(&self) {
        match self.journal.adopt(self.clock.now()).await {
            Ok((entries, _)) if entries.is_empty() => {}
            Ok((entries, tokens)) => {
                tracing::info!(sessions = entries.len(), "adopted the unreported usage of another process");
                lock(&self.over).extend(entries.into_iter().map(|entry| (entry.session, entry)));
                lock(&self.tokens).extend(tokens);
            }
            Err(reason) => tracing::error!(%reason, "failed to adopt the unreported usage of another process"),
        }
    }

    /// Why the journal cannot be written, if it cannot.
    pub(crate) fn unwritable(&self) -> Option<Arc<JournalError>> {
        lock(&self.unwritable).clone()
    }

    /// One at a time: an older picture must not be written over a newer one. Whether the journal can be written.
    pub(super) async fn flush(&self) -> bool {
        let _turn = self.flushing.lock().await;
        let changed: Vec<(Arc<Account>, JournalEntry)> = lock(&self.live)
            .values()
            .map(|account| (Arc::clone(account), account.entry(None)))
            .filter(|(account, entry)| !account.has_journaled(entry))
            .collect();
        let unkept: Vec<Uuid> = lock(&self.unkept).iter().copied().collect();
        let mut entries: Vec<JournalEntry> = changed.iter().map(|(_, entry)| *entry).collect();
        {
            let over = lock(&self.over);
            entries.extend(unkept.iter().filter_map(|session| over.get(session)).copied());
        }
        if entries.is_empty() && self.unwritable().is_none() {
            return true;
        }
        let unknown = changed.iter().filter(|(account, _)| account.is_unwritten() && !account.is_known());
        let tokens = unknown.map(|(account, _)| (account.session(), account.token().clone())).collect();
        match self.journal.keep(entries, tokens, self.clock.now()).await {
            Ok(()) => {
                for (account, entry) in changed {
                    account.journaled(&entry);
                }
                lock(&self.unkept).retain(|session| !unkept.contains(session));
                if lock(&self.unwritable).take().is_some() {
                    tracing::info!("usage is written to disk again");
                }
                true
            }
            Err(reason) => {
                let reason = Arc::new(reason);
                if lock(&self.unwritable).replace(Arc::clone(&reason)).is_none() {
                    tracing::error!(%reason, "failed to write usage to disk; reporting it at once instead");
                }
                false
            }
        }
    }
}
