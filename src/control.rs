//! The control plane: users, plans, nodes, gateways, sessions and their accounting, over REST (docs/02).

mod api;
pub mod db;
mod domain;
pub mod model;
mod runtime;

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::clock::Clock;
use crate::config::{self, ConfigError, Database, Ops, Secret, Sessions, Source, key};
use crate::digest::sha256_hex;
use crate::lifecycle::Shutdown;
use crate::net::tls::{Certificate, Certificates, Tickets};
use crate::net::{http, listener, ops, tls};
use crate::token::{Issuer, Verifier};

use db::{Db, Listener};
use domain::enrollment::RefreshTokenDeriver;
use domain::lease::Rules;
use model::calendar::Calendar;
use runtime::ControlState;
use runtime::events::EventBroadcaster;
use runtime::gateway_cache::GatewayCache;
use runtime::last_seen::LastSeen;
use runtime::metrics::ControlMetrics;
use runtime::node_cache::NodeCache;
use runtime::seal::Sealer;
use runtime::sweep;

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

/// A control plane that is bound and has not begun to serve.
pub struct Control {
    state: Arc<ControlState>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    ops: Option<TcpListener>,
    limits: http::Limits,
    db_listener: Option<Listener>,
    event_retention: config::Events,
}

impl Control {
    /// Loads keys, checks the schema and binds the sockets.
    pub async fn bind(source: &Source, clock: Clock) -> Result<Self, StartError> {
        let database: Database = source.section()?;
        let config: config::Control = source.section()?;
        let sessions: Sessions = source.section()?;
        let net: config::Net = source.section()?;
        db::check(&database).map_err(|invalid| source.locate(&invalid))?;
        let bytes = |key, secret: &Secret| key_bytes(secret).map_err(|error| source.unusable(key, error));
        let signing_key = key!(config::Control, signing_key);
        let issuer = Issuer::new(&bytes(signing_key, &config.signing_key)?)
            .map_err(|error| source.unusable(signing_key, error))?;
        let issuer = if config.second_signing_key.is_empty() {
            issuer
        } else {
            let second_signing_key = key!(config::Control, second_signing_key);
            issuer
                .with_second(&bytes(second_signing_key, &config.second_signing_key)?)
                .map_err(|error| source.unusable(second_signing_key, error))?
        };
        let encryption_key = bytes(key!(config::Control, encryption_key), &config.encryption_key)?;
        let deriver = RefreshTokenDeriver::new(&encryption_key);
        let sealer = Sealer::new(&encryption_key)
            .map_err(|error| source.unusable(key!(config::Control, encryption_key), error))?;
        let metrics = ControlMetrics::new();
        let certificates = if config.cert.is_empty() {
            None
        } else {
            let read = Certificate::read(&config.cert, &config.key, &net);
            let read = read.map_err(|error| source.unusable(key!(config::Control, cert), error))?;
            let certificates = Certificates::new(read, Vec::new(), &net, &metrics.all);
            certificates.warn(clock.now());
            Some(certificates)
        };
        let tickets = Tickets::own(net.ticket_lifetime, clock.clone());
        let server = |certificates| tls::server(Arc::clone(certificates), tickets, &[tls::HTTP_1_1]);
        let tls = certificates
            .as_ref()
            .map(server)
            .transpose()
            .map_err(|error| source.unusable(key!(config::Control, cert), error))?;
        db::check_pooler(&database).await.map_err(|invalid| source.locate(&invalid))?;
        let status = db::status(&database).await.map_err(|error| StartError::Database(error.to_string()))?;
        if !status.pending.is_empty() {
            return Err(StartError::Schema(status.pending.join(", ")));
        }
        let rules = rules(source, &sessions)?;
        let db_listener = Db::listener(&database).map_err(|invalid| source.locate(&invalid))?;
        let event_retention: config::Events = source.section()?;
        let db = Db::open(&database).map_err(|invalid| source.locate(&invalid))?;
        let listener = listener::bind(&config.listen, &net)
            .await
            .map_err(|error| source.unusable(key!(config::Control, listen), error))?;
        let ops: Ops = source.section()?;
        let ops = ops::bind(&ops.control_listen, &net)
            .await
            .map_err(|error| source.unusable(key!(Ops, control_listen), error))?;
        let bootstrap_hash =
            (!config.bootstrap_key.is_empty()).then(|| sha256_hex(config.bootstrap_key.expose().as_bytes()));
        let limits = http::Limits {
            connections: config.max_connections,
            header: config.header_timeout,
            idle: config.idle_timeout,
        };
        let limits = limits.within_open_files(database.pool_size.saturating_add(RESERVED_FILES));
        let verifier = Verifier::new(issuer.key_set());
        let (gateways, nodes) = (GatewayCache::new(config.gateway_cache), NodeCache::new(config.node_cache));
        let events = EventBroadcaster::open(&db, event_retention.clone())
            .await
            .map_err(|error| StartError::Database(error.to_string()))?;
        let state = ControlState {
            db,
            issuer,
            verifier,
            sealer,
            bootstrap_hash,
            config,
            sessions,
            deriver,
            gateways,
            nodes,
            seen: LastSeen::default(),
            enrollment: source.section()?,
            client_config: source.section()?,
            pool: source.section()?,
            clock,
            clock_warn_after: source.section::<config::Clock>()?.warn_after,
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
        let sweeper = sweep::run(&state, &self.event_retention, shutdown.clone());
        let events = state.events.run(&state.db, self.db_listener, || state.forget(), &shutdown);
        let answered = Shutdown::default();
        let api = http::serve(self.listener, self.tls, api::router(Arc::clone(&state)), self.limits, &shutdown);
        let ops = async {
            if let Some(listener) = self.ops {
                let metrics = state.metrics.all.clone();
                ops::serve(listener, metrics, Arc::clone(&state), shutdown.clone(), &shutdown).await;
            }
        };
        let seen = Box::pin(async {
            tokio::select! {
                () = state.seen.run(&state.db, state.config.last_seen_interval, &answered) => {}
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

fn rules(source: &Source, sessions: &Sessions) -> Result<Rules, ConfigError> {
    let leases: config::Leases = source.section()?;
    let billing: config::Billing = source.section()?;
    Ok(Rules {
        calendar: Calendar::new(&billing.timezone)
            .map_err(|error| source.unusable(key!(config::Billing, timezone), error))?,
        min: leases.min.as_u64(),
        max: leases.max.as_u64(),
        reservation_ttl: sessions.reservation_ttl,
        session_ttl: sessions.session_ttl,
        silent_after: sessions.silent_after,
        max_bytes_per_second: u64::from(sessions.max_gbps).saturating_mul(BYTES_PER_GIGABIT),
    })
}

/// Why a secret is no key.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum KeyError {
    #[error("must be set; `httvps admin keygen` prints fresh keys")]
    Unset,
    #[error("must be 32 bytes in base64; `httvps admin keygen` prints fresh keys")]
    Bytes,
}

fn key_bytes(secret: &Secret) -> Result<Vec<u8>, KeyError> {
    if secret.is_empty() {
        return Err(KeyError::Unset);
    }
    match BASE64_STANDARD.decode(secret.expose().trim()) {
        Ok(bytes) if bytes.len() == 32 => Ok(bytes),
        _ => Err(KeyError::Bytes),
    }
}
