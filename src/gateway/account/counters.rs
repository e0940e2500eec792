//! What a session has moved, and how much of it is safe elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::IntCounter;

use crate::gateway::metrics::GatewayMetrics;

/// Nothing was written to the journal yet.
const UNWRITTEN: u64 = u64::MAX;

/// Billed payload bytes of one session, cumulative.
pub(super) struct Counters {
    up: AtomicU64,
    down: AtomicU64,
    /// Bytes in all that the journal has.
    journaled: AtomicU64,
    /// Bytes in all that the control plane has heard of.
    reported: AtomicU64,
    total_up: IntCounter,
    total_down: IntCounter,
}

impl Counters {
    pub(super) fn new(metrics: &GatewayMetrics) -> Self {
        Self {
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            journaled: AtomicU64::new(UNWRITTEN),
            reported: AtomicU64::new(0),
            total_up: metrics.bytes.with_label_values(&["up"]),
            total_down: metrics.bytes.with_label_values(&["down"]),
        }
    }

    pub(super) fn add_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        self.total_up.inc_by(bytes as u64);
    }

    pub(super) fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.total_down.inc_by(bytes as u64);
    }

    pub(super) fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Bytes in all.
    pub(super) fn spent(&self) -> u64 {
        self.up().saturating_add(self.down())
    }

    pub(super) fn reported(&self) -> u64 {
        self.reported.load(Ordering::Relaxed)
    }

    pub(super) fn set_reported(&self, bytes: u64) {
        self.reported.store(bytes, Ordering::Relaxed);
    }

    /// Whether the journal has never had them.
    pub(super) fn is_unwritten(&self) -> bool {
        self.journaled.load(Ordering::Relaxed) == UNWRITTEN
    }

    /// Whether the journal has so many bytes in all.
    pub(super) fn is_journaled(&self, bytes: u64) -> bool {
        self.journaled.load(Ordering::Relaxed) == bytes
    }

    pub(super) fn set_journaled(&self, bytes: u64) {
        self.journaled.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that a crash would lose now.
    pub(super) fn unflushed(&self) -> u64 {
        match self.journaled.load(Ordering::Relaxed) {
            UNWRITTEN => self.spent(),
            journaled => self.spent().saturating_sub(journaled),
        }
    }
}
