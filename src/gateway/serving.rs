//! What runs while a gateway serves, and in which order it ends (docs/04, "Drain").

use std::sync::Arc;
use std::time::Duration;

use super::takeover::{Offered, await_successor};
use super::{Gateway, GatewayState, accept, events};
use crate::lifecycle::Shutdown;
use crate::net::ops;

/// How often it is seen whether a drain is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Gateway {
    /// Serves until drained: sessions end first, then their usage is reported.
    pub async fn serve(self, shutdown: Shutdown) {
        let Self { state, listeners, ops, claim, cursor, .. } = self;
        let (draining, sessions, background) = (shutdown.child(), Shutdown::default(), Shutdown::default());
        let ops_shutdown = background.child();
        let offered = listeners.iter().map(|listener| (&listener.purpose, &listener.socket));
        let offered = offered.chain(ops.iter().map(|(purpose, socket)| (purpose, socket)));
        let offered: std::io::Result<Vec<Offered>> =
            offered.map(|(purpose, socket)| Offered::of(purpose, socket)).collect();
        let succession = async {
            match offered {
                Ok(offered) => {
                    let drain = || {
                        state.drain.succeed();
                        draining.drain();
                        ops_shutdown.drain();
                    };
                    await_successor(&state, claim, offered, &sessions, drain).await
                }
                Err(error) => {
                    tracing::error!(%error, "takeover by another process is unavailable");
                    Some(claim.into_lock())
                }
            }
        };
        let front = async {
            let accepting = listeners.into_iter().map(|one| accept::run(one, Arc::clone(&state), &sessions));
            tokio::join!(futures_util::future::join_all(accepting), until_over(&state, &draining, &sessions));
            sessions.finished().await;
            background.drain();
        };
        let aborted = async {
            let aborting = async {
                shutdown.aborted().await;
                sessions.abort();
                tokio::time::sleep(state.tunnel.close_timeout).await;
            };
            tokio::select! {
                () = aborting => background.abort(),
                () = background.draining() => {}
            }
        };
        let ops = async {
            if let Some((_, listener)) = ops {
                let metrics = state.metrics.all.clone();
                ops::serve(listener, metrics, Arc::clone(&state), draining.clone(), &ops_shutdown).await;
            }
        };
        let acme = async {
            if let Some(acme) = &state.acme {
                acme.run(&state.clock, &draining).await;
            }
        };
        let leaving = async {
            draining.draining().await;
            state.usage.leave(&state.control).await;
        };
        let _lock = tokio::join!(
            succession,
            front,
            aborted,
            ops,
            acme,
            leaving,
            state.usage.run(&state.control, &background),
            state.keys.run(&state.control, &state.persist, state.gateway.jwks_refresh, &background),
            state.persist.run(&state.offline, &background),
            state.nodes_and_heartbeat(&background),
            state.relieve_memory(&background),
            state.certificates.watch(&background),
            events::run(&state, cursor, &background),
        );
    }
}

/// Begins the drain when it is asked for, and has everything in front end when it is over.
async fn until_over(state: &GatewayState, draining: &Shutdown, sessions: &Shutdown) {
    tokio::select! {
        () = draining.draining() => {}
        () = sessions.draining() => return,
    }
    state.drain.begin();
    while !state.drain.is_over(state.usage.live_count(), sessions.is_idle()) {
        tokio::select! {
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = sessions.draining() => return,
        }
    }
    sessions.drain();
}
