//! The control plane: users, plans, nodes, gateways, sessions and their accounting, over REST (docs/02).

mod accounting;
mod admission;
mod billing;
mod calendar;
mod catalog;
pub mod db;
mod door;
mod enrolment;
mod error;
mod events;
mod extract;
mod gateways;
mod handlers;
mod lease;
mod lenient;
mod models;
mod nodes;
mod router;
mod seal;
mod seen;
mod sweep;
mod why;

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prometheus::{Histogram, HistogramVec, IntCounter, IntGauge};
use rustls::ServerConfig;
use time::OffsetDateTime;
use tokio::net::TcpListener;

use crate::config::{self, ConfigError, Database, Ops, Secret, Sessions, Source};
use crate::digest::sha256_hex;
use crate::lifecycle::Shutdown;
use crate::metrics::Metrics;
use crate::net::ops::Readiness;
use crate::net::tls::{Certificate, Certificates, Tickets};
use crate::net::{http, listener, ops, tls};
use crate::token::{Issuer, Verifier};

use calendar::Calendar;
use db::{Db, Listener};
use enrolment::Deriver;
use events::Hub;
use gateways::Gateways;
use lease::Rules;
use nodes::Nodes;
use seal::Sealer;
use seen::Seen;

/// Open files besides the connections of strangers and of the database's pool.
const RESERVED_FILES: usize = 64;
const BYTES_PER_GIGABIT: u64 = 125_000_000;

/// Why the control plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("database: {0}")]
    Database(String),
    #[error("database.url: the schema lacks {0}; run `httvps migrate`")]
    Schema(String),
}

/// What handlers share.
struct State {
    db: Db,
    issuer: Issuer,
    verifier: Verifier,
    sealer: Sealer,
    bootstrap_hash: Option<String>,
    config: config::Control,
    sessions: Sessions,
    deriver: Deriver,
    gateways: Gateways,
    nodes: Nodes,
    seen: Seen,
    enrolment: config::Enrolment,
    client_config: config::ClientConfig,
    pool: config::Pool,
    clock: config::Clock,
    rules: Rules,
    events: Hub,
    /// None in clear text.
    certificates: Option<Arc<Certificates>>,
    metrics: ControlMetrics,
}

struct ControlMetrics {
    all: Metrics,
    http: HistogramVec,
    revocation: Histogram,
    unacked: IntCounter,
    pool_in_use: IntGauge,
    pool_size: IntGauge,
    retries: IntCounter,
    implausible: IntCounter,
    split: IntCounter,
}

impl ControlMetrics {
    fn new() -> Self {
        let all = Metrics::new("control");
        Self {
            http: all.seconds_by("httvps_http_request_seconds", "Time to answer a request", &["route", "status"]),
            revocation: all.seconds("httvps_revocation_seconds", "Until every online gateway has acted on a change"),
            unacked: all.counter("httvps_revocations_unacked_total", "Changes that not every gateway acted on in time"),
            pool_in_use: all.gauge("httvps_db_pool_in_use", "Database connections in use"),
            pool_size: all.gauge("httvps_db_pool_size", "Most database connections"),
            retries: all
                .counter("httvps_db_retries_total", "Transactions begun again because others were in their way"),
            implausible: all.counter(
                "httvps_usage_implausible_total",
                "Usage reports refused because no line carries so much in the time",
            ),
            split: all
                .counter("httvps_usage_split_total", "Usage reports taken in parts because one session would not do"),
            all,
        }
    }
}

/// A control plane that is bound and has not begun to serve.
pub struct Control {
    state: Arc<State>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    ops: Option<TcpListener>,
    limits: http::Limits,
    db_listener: Option<Listener>,
    event_retention: config::Events,
}

impl Control {
    /// Loads keys, checks the schema and binds the sockets.
    pub async fn bind(source: &Source) -> Result<Self, StartError> {
        let database: Database = source.section()?;
        let config: config::Control = source.section()?;
        let sessions: Sessions = source.section()?;
        let net: config::Net = source.section()?;
        db::check(&database).map_err(|bad| source.unusable::<Database>(bad.0, bad.1))?;
        let key = |name, secret: &Secret| {
            key_bytes(secret).map_err(|reason| source.unusable::<config::Control>(name, reason))
        };
        let issuer = Issuer::new(&key("signing_key", &config.signing_key)?)
            .map_err(|reason| source.unusable::<config::Control>("signing_key", reason))?;
        let issuer = if config.second_signing_key.is_empty() {
            issuer
        } else {
            issuer
                .with_second(&key("second_signing_key", &config.second_signing_key)?)
                .map_err(|reason| source.unusable::<config::Control>("second_signing_key", reason))?
        };
        let encryption_key = key("encryption_key", &config.encryption_key)?;
        let deriver = Deriver::new(&encryption_key);
        let sealer = Sealer::new(&encryption_key)
            .map_err(|reason| source.unusable::<config::Control>("encryption_key", reason))?;
        let metrics = ControlMetrics::new();
        let certificates = if config.cert.is_empty() {
            None
        } else {
            let read = Certificate::read(&config.cert, &config.key, &net);
            let read = read.map_err(|reason| source.unusable::<config::Control>("cert", reason))?;
            Some(Certificates::new(read, Vec::new(), &net, &metrics.all))
        };
        let server = |certificates| tls::server(Arc::clone(certificates), Tickets::own(net.ticket_lifetime));
        let tls = certificates
            .as_ref()
            .map(server)
            .transpose()
            .map_err(|reason| source.unusable::<config::Control>("cert", reason))?;
        db::check_pooler(&database).await.map_err(|bad| source.unusable::<Database>(bad.0, bad.1))?;
        let status = db::status(&database).await.map_err(|error| StartError::Database(error.to_string()))?;
        if !status.pending.is_empty() {
            return Err(StartError::Schema(status.pending.join(", ")));
        }
        let rules = rules(source, &sessions)?;
        let db_listener = Db::listener(&database).map_err(|bad| source.unusable::<Database>(bad.0, bad.1))?;
        let event_retention: config::Events = source.section()?;
        let db = Db::open(&database).map_err(|reason| source.unusable::<Database>("url", reason))?;
        let listener = listener::bind(&config.listen, &net)
            .await
            .map_err(|reason| source.unusable::<config::Control>("listen", reason))?;
        let ops: Ops = source.section()?;
        let ops = ops::bind(&ops.control_listen, &net)
            .await
            .map_err(|reason| source.unusable::<Ops>("control_listen", reason))?;
        let bootstrap_hash =
            (!config.bootstrap_key.is_empty()).then(|| sha256_hex(config.bootstrap_key.expose().as_bytes()));
        let limits = http::Limits {
            connections: config.max_connections,
            header: config.header_timeout,
            idle: config.idle_timeout,
        };
        let limits = limits.within_open_files(database.pool_size.saturating_add(RESERVED_FILES));
        let verifier = Verifier::new(issuer.key_set());
        let events =
            Hub::open(&db, event_retention.clone()).await.map_err(|error| StartError::Database(error.to_string()))?;
        let state = State {
            db,
            issuer,
            verifier,
            sealer,
            bootstrap_hash,
            config,
            sessions,
            deriver,
            gateways: Gateways::default(),
            nodes: Nodes::default(),
            seen: Seen::default(),
            enrolment: source.section()?,
            client_config: source.section()?,
            pool: source.section()?,
            clock: source.section()?,
            rules,
            events,
            certificates,
            metrics,
        };
        Ok(Self { state: Arc::new(state), listener, tls, ops, limits, db_listener, event_retention })
    }

    /// Where the REST API listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the operations listener is, if there is one.
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Whether it speaks HTTPS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Serves until drained.
    pub async fn serve(self, shutdown: Shutdown) {
        let state = self.state;
        let sweeper = sweep::run(state.db.clone(), state.sessions.clone(), self.event_retention, shutdown.clone());
        let events = state.events.run(&state.db, self.db_listener, || state.forget(), &shutdown);
        let answered = Shutdown::default();
        let api = http::serve(self.listener, self.tls, router::router(Arc::clone(&state)), self.limits, &shutdown);
        let ops = async {
            if let Some(listener) = self.ops {
                let metrics = state.metrics.all.clone();
                ops::serve(listener, metrics, Arc::clone(&state), shutdown.clone(), &shutdown).await;
            }
        };
        let seen = Box::pin(async {
            tokio::select! {
                () = state.seen.run(&state.db, &answered) => {}
                () = shutdown.aborted() => {}
            }
        });
        let serving = async {
            api.await;
            answered.drain();
        };
        let watching = async {
            if let Some(certificates) = &state.certificates {
                certificates.watch(&shutdown).await;
            }
        };
        tokio::join!(sweeper, events, serving, seen, ops, watching);
    }
}

impl State {
    /// Something has changed of what is remembered.
    fn forget(&self) {
        self.gateways.forget();
        self.nodes.forget();
    }
}

impl Readiness for State {
    async fn ready(&self) -> Result<(), String> {
        self.db.ready().await
    }

    fn warnings(&self) -> Vec<String> {
        self.certificates
            .as_ref()
            .map(|certificates| certificates.complaints(OffsetDateTime::now_utc()))
            .unwrap_or_default()
    }

    fn refresh(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.show(OffsetDateTime::now_utc());
        }
        let (in_use, size) = self.db.usage();
        self.metrics.pool_in_use.set(i64::try_from(in_use).unwrap_or(i64::MAX));
        self.metrics.pool_size.set(i64::try_from(size).unwrap_or(i64::MAX));
        self.metrics.retries.inc_by(db::fault::retried());
    }
}

fn rules(source: &Source, sessions: &Sessions) -> Result<Rules, ConfigError> {
    let leases: config::Leases = source.section()?;
    let billing: config::Billing = source.section()?;
    Ok(Rules {
        calendar: Calendar::new(&billing.timezone)
            .map_err(|reason| source.unusable::<config::Billing>("timezone", reason))?,
        min: leases.min.as_u64(),
        max: leases.max.as_u64(),
        reservation_ttl: sessions.reservation_ttl,
        session_ttl: sessions.session_ttl,
        silent_after: sessions.silent_after,
        max_bytes_per_second: u64::from(sessions.max_gbps).saturating_mul(BYTES_PER_GIGABIT),
    })
}

fn key_bytes(secret: &Secret) -> Result<Vec<u8>, &'static str> {
    if secret.is_empty() {
        return Err("must be set; `httvps admin keygen` prints fresh keys");
    }
    match BASE64_STANDARD.decode(secret.expose().trim()) {
        Ok(bytes) if bytes.len() == 32 => Ok(bytes),
        _ => Err("must be 32 bytes in base64; `httvps admin keygen` prints fresh keys"),
    }
}
