use std::sync::Arc;
use std::time::Duration;

use super::events::EventBroadcaster;
use super::gateway_cache::GatewayCache;
use super::last_seen::LastSeen;
use super::metrics::ControlMetrics;
use super::node_cache::NodeCache;
use super::seal::Sealer;
use crate::clock::Clock;
use crate::config::{self, Sessions};
use crate::control::db::{self, Db, NotReady};
use crate::control::domain::enrollment::RefreshTokenDeriver;
use crate::control::domain::lease::Rules;
use crate::control::model::types::Time;
use crate::net::ops::Readiness;
use crate::net::tls::Certificates;
use crate::token::{Issuer, Verifier};

/// What handlers share.
pub(crate) struct ControlState {
    pub(crate) db: Db,
    pub(crate) issuer: Issuer,
    pub(crate) verifier: Verifier,
    pub(crate) sealer: Sealer,
    pub(crate) bootstrap_hash: Option<String>,
    pub(crate) config: config::Control,
    pub(crate) sessions: Sessions,
    pub(crate) deriver: RefreshTokenDeriver,
    pub(crate) gateways: GatewayCache,
    pub(crate) nodes: NodeCache,
    pub(crate) seen: LastSeen,
    pub(crate) enrollment: config::Enrollment,
    pub(crate) client_config: config::ClientConfig,
    pub(crate) pool: config::Pool,
    pub(crate) clock: Clock,
    /// From when on a gateway's clock is named.
    pub(crate) clock_warn_after: Duration,
    pub(crate) rules: Rules,
    pub(crate) events: EventBroadcaster,
    /// None in clear text.
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) metrics: ControlMetrics,
}

impl ControlState {
    /// The time, as databases keep it.
    pub(crate) fn now(&self) -> Time {
        self.clock.now().into()
    }

    /// Something has changed of what is remembered.
    pub(crate) fn forget(&self) {
        self.gateways.forget();
        self.nodes.forget();
    }
}

impl Readiness for ControlState {
    type Unready = NotReady;

    async fn ready(&self) -> Result<(), NotReady> {
        self.db.ready().await
    }

    fn warnings(&self) -> Vec<String> {
        self.certificates.as_ref().map(|certificates| certificates.complaints(self.clock.now())).unwrap_or_default()
    }

    fn refresh(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.show(self.clock.now());
        }
        let (in_use, size) = self.db.usage();
        self.metrics.pool_in_use.set(i64::try_from(in_use).unwrap_or(i64::MAX));
        self.metrics.pool_size.set(i64::try_from(size).unwrap_or(i64::MAX));
        self.metrics.retries.inc_by(db::fault::retried());
    }
}
