//! Refusals that the gateway decided by itself, until the next heartbeat (docs/04, "A session").

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use uuid::Uuid;

use crate::api::{RefusalNote, kept_version};
use crate::frame::SessionCode;

/// The newest refusals of devices with a genuine token.
pub(super) struct Refusals {
    notes: Mutex<VecDeque<RefusalNote>>,
    most: usize,
}

impl Refusals {
    /// None yet; so many are kept.
    pub(super) fn new(most: usize) -> Self {
        Self { notes: Mutex::default(), most }
    }

    fn notes(&self) -> MutexGuard<'_, VecDeque<RefusalNote>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(
        &self,
        at: OffsetDateTime,
        device: Uuid,
        code: SessionCode,
        client_version: &str,
        support_id: &str,
    ) {
        let client_version = (!client_version.is_empty()).then(|| kept_version(client_version));
        let support_id = support_id.to_owned();
        self.put(vec![RefusalNote { device_id: device, code, client_version, support_id, at }]);
    }

    /// Takes what is to be told.
    pub(super) fn take(&self) -> Vec<RefusalNote> {
        self.notes().drain(..).collect()
    }

    /// Puts in what is still to be told; the oldest go when there are too many.
    pub(super) fn put(&self, more: Vec<RefusalNote>) {
        let mut notes = self.notes();
        notes.extend(more);
        let surplus = notes.len().saturating_sub(self.most);
        notes.drain(..surplus);
    }
}
