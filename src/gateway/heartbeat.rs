//! Heartbeats: what the gateway tells the control plane of itself, and what that wants of it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use reqwest::StatusCode;

use super::GatewayState;
use super::control::ControlError;
use crate::api::{GatewayHeartbeat, Validity};
use crate::frame::SessionCode;
use crate::lifecycle::Shutdown;

/// Answers to a heartbeat that mean that this gateway is not wanted: too old, or revoked.
const UNWELCOME: [StatusCode; 2] = [StatusCode::UPGRADE_REQUIRED, StatusCode::UNAUTHORIZED];

impl GatewayState {
    /// Probes what nodes there are; heartbeats bring others, and are the trials that end an outage.
    pub(super) async fn nodes_and_heartbeat(&self, shutdown: &Shutdown) {
        let beats = async {
            loop {
                self.heartbeat().await;
                let met = self.met_control.load(Ordering::Relaxed);
                let pause = if met { self.gateway.heartbeat_interval } else { self.gateway.heartbeat_retry };
                tokio::select! {
                    () = shutdown.draining() => break,
                    () = tokio::time::sleep(pause) => {}
                    () = self.control.breaker().trial_due() => {}
                }
            }
            if self.met_control.load(Ordering::Relaxed) {
                self.send_heartbeat(true).await;
            }
        };
        tokio::join!(beats, self.nodes.run(&self.control, &self.clock, shutdown));
    }

    pub(super) async fn heartbeat(&self) -> bool {
        self.send_heartbeat(false).await
    }

    /// One at a time: an older answer must not overwrite a newer list. The last one says that this process is leaving.
    async fn send_heartbeat(&self, leaving: bool) -> bool {
        let _turn = self.heartbeat_turn.lock().await;
        let request = GatewayHeartbeat {
            gateway_id: None,
            sessions: i64::try_from(self.usage.live_count()).unwrap_or(i64::MAX),
            streams: self.metrics.streams.get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            refusals: self.refusals.take(),
            clock_offset_ms: self.clock.offset(),
            certificate: self.certificates.validity().map(|(begins, ends)| Validity { begins, ends }),
            instance: Some(self.instance),
            alone: self.alone.load(Ordering::Relaxed),
            leaving,
        };
        let asked_at = Instant::now();
        match self.control.heartbeat(&request).await {
            Ok(orders) => {
                self.alone.store(false, Ordering::Relaxed);
                self.clock.measured(orders.server_time, asked_at);
                self.apply_orders(orders);
                true
            }
            Err(error) => {
                error.log("heartbeat failed");
                self.refusals.put(request.refusals);
                if let ControlError::Refused { status, code } = error
                    && UNWELCOME.contains(&status)
                {
                    if status == StatusCode::UNAUTHORIZED {
                        self.usage.cut(|_| true, SessionCode::GoingAway);
                    }
                    self.retire(code);
                }
                false
            }
        }
    }
}
