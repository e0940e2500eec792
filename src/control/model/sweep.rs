use crate::config::{Control, Events, Sessions};
use crate::control::model::types::Time;

/// Moments before which things are stale.
#[derive(Clone, Copy, Debug)]
pub struct Cutoffs {
    pub now: Time,
    pub gateways: Time,
    pub nodes: Time,
    pub sessions: Time,
    pub empty: Time,
    pub refusals: Time,
    pub tombstones: Time,
    pub events: Time,
    pub idempotency: Time,
    /// Most sessions deleted at once.
    pub batch: i64,
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    pub expired: usize,
    pub reaped: usize,
    pub gateways: usize,
    pub nodes: usize,
    pub deleted: usize,
}

impl Cutoffs {
    /// The cutoffs of a moment.
    pub fn at(now: Time, config: &Sessions, events: &Events, control: &Control) -> Self {
        Self {
            now,
            gateways: now.before(config.gateway_timeout),
            nodes: now.before(config.node_timeout),
            sessions: now.before(config.retention),
            empty: now.before(config.empty_retention),
            refusals: now.before(config.refusal_retention),
            tombstones: now.before(config.tombstone_retention),
            events: now.before(events.retention),
            idempotency: now.before(control.idempotency_ttl),
            batch: config.sweep_batch.into(),
        }
    }
}
