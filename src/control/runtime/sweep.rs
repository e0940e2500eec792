//! Looks for what has gone stale (docs/10).

use super::ControlState;
use crate::config::Events;
use crate::control::model::Cutoffs;
use crate::lifecycle::Shutdown;

/// Sweeps at intervals until drained.
pub(crate) async fn run(state: &ControlState, events: &Events, shutdown: Shutdown) {
    let config = &state.sessions;
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
        match state.db.sweep(Cutoffs::at(state.now(), config, events, &state.config)).await {
            Ok(swept) if swept.expired + swept.reaped + swept.gateways + swept.nodes + swept.deleted > 0 => {
                tracing::info!(?swept, "swept");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "sweep failed"),
        }
    }
}
