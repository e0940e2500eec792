//! What the gateway's parts share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use uuid::Uuid;

use super::acme::{Acme, NoCertificate};
use super::arrival::Arrivals;
use super::control::ControlClient;
use super::control_clock::ControlClock;
use super::drain::Drain;
use super::edge::Site;
use super::egress;
use super::events::EventCursor;
use super::journal::JournalError;
use super::keys::Keys;
use super::memory::Shares;
use super::metrics::GatewayMetrics;
use super::nodes::Nodes;
use super::offline::OfflineCache;
use super::persist::{Name, Orders, Persist, SavedState};
use super::portal::Portal;
use super::rate_limiter::RateLimiters;
use super::refusals::Refusals;
use super::request_limiter::RequestLimiter;
use super::resume::Resumptions;
use super::usage::Usage;
use crate::api::{GatewayOrders, Node};
use crate::config::{self, Egress, Notices};
use crate::frame::{Encoding, binary};
use crate::mux::Limits;
use crate::net::ops::Readiness;
use crate::net::tls::Certificates;

/// Of one process; its parts hold it by an `Arc`.
pub(super) struct GatewayState {
    /// This process, among those of the gateway.
    pub(super) instance: Uuid,
    /// No other process acts for the gateway, which the control plane has not heard yet.
    pub(super) alone: AtomicBool,
    pub(super) drain: Drain,
    pub(super) arrivals: Arrivals,
    pub(super) gateway: config::Gateway,
    pub(super) tunnel: config::Tunnel,
    pub(super) http2: config::Http2,
    pub(super) relay: config::Relay,
    pub(super) egress: Egress,
    pub(super) notices: Notices,
    pub(super) lookups: egress::Lookups,
    pub(super) limits: Arc<Limits>,
    pub(super) shares: Shares,
    pub(super) v1_message_max: usize,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) acme: Option<Acme>,
    /// Other machines see a certificate that was made here.
    pub(super) exposed: bool,
    pub(super) control: ControlClient,
    pub(super) clock: Arc<ControlClock>,
    pub(super) keys: Keys,
    pub(super) nodes: Nodes,
    pub(super) rate_limiters: RateLimiters,
    pub(super) offline: OfflineCache,
    pub(super) persist: Persist,
    pub(super) refusals: Refusals,
    pub(super) resumptions: Resumptions,
    pub(super) portal: Portal,
    pub(super) site: Site,
    /// Of devices, and of those whose token is out of date.
    pub(super) hellos: RequestLimiter<(Uuid, bool)>,
    pub(super) usage: Usage,
    pub(super) metrics: GatewayMetrics,
    pub(super) met_control: AtomicBool,
    /// From the control plane, or from an earlier process.
    pub(super) has_nodes: AtomicBool,
    /// It was said that events come late.
    pub(super) late_events: AtomicBool,
    pub(super) ordered_drain: AtomicBool,
    /// Counts events that end sessions of users and devices.
    pub(super) stops: AtomicU64,
    /// Counts events that end single sessions.
    pub(super) session_stops: AtomicU64,
    /// Why the control plane does not want this gateway, if it does not.
    pub(super) unwelcome: Mutex<Option<String>>,
    pub(super) heartbeat_turn: tokio::sync::Mutex<()>,
}

impl GatewayState {
    /// Largest message of an encoding in bytes.
    pub(super) fn message_max(&self, encoding: Encoding) -> usize {
        match encoding {
            Encoding::V1 => self.v1_message_max,
            Encoding::V2 => binary::MAX_MESSAGE,
        }
    }

    pub(super) fn unwelcome(&self) -> MutexGuard<'_, Option<String>> {
        self.unwelcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what an earlier process had kept, if that is not too old; gives the last event it had acted on.
    pub(super) fn restore(&self, kept: &SavedState, max_age: Duration) -> EventCursor {
        if !kept.set_clock(&self.clock, max_age) {
            self.persist.clear();
            return None;
        }
        if let Some(keys) = kept.get(Name::Keys) {
            self.keys.replace(&keys);
        }
        if let Some(nodes) = kept.get::<Vec<Node>>(Name::Nodes) {
            self.nodes.replace(nodes);
            self.has_nodes.store(true, Ordering::Relaxed);
        }
        if let Some(orders) = kept.get::<Orders>(Name::Orders) {
            self.ordered_drain.store(orders.drain, Ordering::Relaxed);
            *self.unwelcome() = orders.unwelcome;
        }
        for (id, device) in kept.devices() {
            self.offline.restore(id, device);
        }
        kept.get(Name::Cursor)
    }

    /// Keepalives on the event stream are overdue, although calls are answered.
    pub(super) fn events_are_late(&self) {
        if !self.control.breaker().is_away() && !self.late_events.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "events come late: a proxy in front of the control plane seems to hold them back; let it pass \
                 /api/v1/gateway/events on without buffering"
            );
        }
    }

    /// Does what the control plane wants, and keeps it.
    pub(super) fn apply_orders(&self, orders: GatewayOrders) {
        self.persist.set(Name::Nodes, &orders.nodes);
        self.persist.set(Name::Orders, &Orders { drain: orders.drain, unwelcome: None });
        self.persist.set_time(&self.clock);
        self.nodes.replace(orders.nodes);
        self.has_nodes.store(true, Ordering::Relaxed);
        self.ordered_drain.store(orders.drain, Ordering::Relaxed);
        *self.unwelcome() = None;
        if !self.met_control.swap(true, Ordering::Relaxed) {
            tracing::info!(gateway = %orders.gateway_id, region = orders.region, "registered with the control plane");
        }
    }

    /// The control plane does not want this gateway.
    pub(super) fn retire(&self, code: String) {
        let drain = self.ordered_drain.load(Ordering::Relaxed);
        self.persist.set(Name::Orders, &Orders { drain, unwelcome: Some(code.clone()) });
        *self.unwelcome() = Some(code);
    }

    pub(super) fn refuses_sessions(&self) -> bool {
        self.ordered_drain.load(Ordering::Relaxed) || self.unwelcome().is_some()
    }
}

/// Why a gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unready {
    #[error("the control plane does not want this gateway: {0}")]
    Unwelcome(String),
    #[error("the control plane was not reached yet")]
    Unregistered,
    #[error("usage cannot be kept on disk: {0}")]
    Journal(#[source] Arc<JournalError>),
    #[error(transparent)]
    Certificate(#[from] NoCertificate),
}

impl Readiness for GatewayState {
    type Unready = Unready;

    async fn ready(&self) -> Result<(), Unready> {
        if let Some(code) = &*self.unwelcome() {
            return Err(Unready::Unwelcome(code.clone()));
        }
        if !self.has_nodes.load(Ordering::Relaxed) || !self.keys.is_ready() {
            return Err(Unready::Unregistered);
        }
        if let Some(reason) = self.usage.unwritable() {
            return Err(Unready::Journal(reason));
        }
        Ok(self.acme.as_ref().map_or(Ok(()), Acme::is_there)?)
    }

    fn warnings(&self) -> Vec<String> {
        let away = self.control.breaker().is_away().then(|| "the control plane does not answer".to_owned());
        let others = self.clock.complaint().into_iter().chain(self.persist.complaint());
        away.into_iter().chain(others).chain(self.certificate_complaints()).collect()
    }

    fn refresh(&self) {
        self.clock.show();
        self.certificates.show(self.clock.now());
        self.metrics.held.set(i64::try_from(self.resumptions.held()).unwrap_or(i64::MAX));
        self.metrics.unflushed.set(i64::try_from(self.usage.unflushed()).unwrap_or(i64::MAX));
        self.metrics.waiting.set(i64::try_from(self.limits.memory.held()).unwrap_or(i64::MAX));
        self.metrics.unreported.set(i64::try_from(self.usage.unreported()).unwrap_or(i64::MAX));
    }
}
