//! Looks for what has gone stale (docs/02).

use crate::config::Sessions;
use crate::control::db::Db;
use crate::control::db::types::Time;
use crate::lifecycle::Shutdown;

const DELETED_AT_ONCE: i64 = 1000;

/// Moments before which things are stale.
#[derive(Clone, Copy, Debug)]
pub struct Cutoffs {
    pub now: Time,
    pub gateways: Time,
    pub nodes: Time,
    pub sessions: Time,
    pub tombstones: Time,
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
    pub fn at(now: Time, config: &Sessions) -> Self {
        Self {
            now,
            gateways: now.before(config.gateway_timeout),
            nodes: now.before(config.node_timeout),
            sessions: now.before(config.retention),
            tombstones: now.before(config.tombstone_retention),
            batch: DELETED_AT_ONCE,
        }
    }
}

/// Sweeps at intervals until drained.
pub(super) async fn run(db: Db, config: Sessions, shutdown: Shutdown) {
    tokio::select! {
        () = shutdown.draining() => return,
        () = tokio::time::sleep(config.startup_grace) => {}
    }
    let mut interval = tokio::time::interval(config.sweep_interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.draining() => return,
            _ = interval.tick() => {}
        }
        match db.sweep(Cutoffs::at(Time::now(), &config)).await {
            Ok(swept) if swept.expired + swept.reaped + swept.gateways + swept.nodes + swept.deleted > 0 => {
                tracing::info!(?swept, "swept");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "sweep failed"),
        }
    }
}
