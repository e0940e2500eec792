//! Waiting for a deployment to settle: totals, sessions, metrics, readiness.

use reqwest::Client;

use crate::support::deployment::Deployment;
use crate::support::process::Process;
use crate::support::wait::eventually;

/// Waits until a gateway reports that it is ready.
pub(crate) async fn is_ready(http: &Client, gateway: &Process) {
    let ready = format!("{}/readyz", gateway.line("ops-gateway"));
    eventually(|| async {
        let response = http.get(&ready).send().await.map_err(|error| error.to_string())?;
        if response.status().is_success() { Ok(()) } else { Err(response.text().await.unwrap()) }
    })
    .await;
}

impl Deployment {
    /// Waits until no session is open; returns the total usage.
    pub(crate) async fn ended_total(&self) -> u64 {
        eventually(|| async {
            let sessions = self.control.list("sessions").await;
            let open = sessions.iter().filter(|session| session["state"] != "ended").count();
            let (up, down) = self.totals().await;
            if open == 0 { Ok(up + down) } else { Err(format!("{open} open sessions, {} bytes", up + down)) }
        })
        .await
    }

    /// Waits until the control plane has counted exactly these totals.
    pub(crate) async fn totals_are(&self, up: u64, down: u64) {
        eventually(|| async {
            let totals = self.totals().await;
            if totals == (up, down) { Ok(()) } else { Err(format!("{totals:?} instead of {:?}", (up, down))) }
        })
        .await;
    }

    /// Waits until the control plane has counted what the gateway has transferred.
    pub(crate) async fn usage_settles(&self) {
        let moved =
            async |direction: &str| self.metric(&format!("httvps_bytes_total{{direction=\"{direction}\"}}")).await;
        eventually(|| async {
            let (ours, theirs) = ((moved("up").await, moved("down").await), self.totals().await);
            if ours == theirs { Ok(()) } else { Err(format!("{theirs:?} instead of {ours:?}")) }
        })
        .await;
    }

    /// Waits until this many sessions are open.
    pub(crate) async fn session_count_is(&self, wanted: u64) {
        self.metric_is("httvps_sessions", wanted).await;
    }

    /// Waits until a metric of the gateway has a value.
    pub(crate) async fn metric_is(&self, name: &str, wanted: u64) {
        eventually(|| async {
            let value = self.metric(name).await;
            if value == wanted { Ok(()) } else { Err(format!("{name} is {value} instead of {wanted}")) }
        })
        .await;
    }

    /// Waits until the gateway reports that it is ready.
    pub(crate) async fn becomes_ready(&self) {
        is_ready(&self.control.http, self.gateway()).await;
    }

    /// The status and text of the gateway's `/readyz`.
    pub(crate) async fn readiness(&self) -> (u16, String) {
        let ready = format!("{}/readyz", self.gateway().line("ops-gateway"));
        let response = self.control.http.get(&ready).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}
