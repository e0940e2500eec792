//! Looks for what has gone stale (docs/10).

use crate::config::{Events, Sessions};
use crate::control::db::Db;
use crate::control::model::Cutoffs;
use crate::control::model::types::Time;
use crate::lifecycle::Shutdown;

/// Sweeps at intervals until drained.
pub(crate) async fn run(db: Db, config: Sessions, events: Events, shutdown: Shutdown) {
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
        match db.sweep(Cutoffs::at(Time::now(), &config, &events)).await {
            Ok(swept) if swept.expired + swept.reaped + swept.gateways + swept.nodes + swept.deleted > 0 => {
                tracing::info!(?swept, "swept");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "sweep failed"),
        }
    }
}
