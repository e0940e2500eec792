//! The gateway: clients' tunnels in front, Shadowsocks nodes behind (docs/04).

mod accept;
mod account;
mod admission;
mod association;
mod clock;
mod control;
pub(crate) mod egress;
mod enrol;
mod events;
mod journal;
mod keys;
mod memory;
mod metrics;
mod nodes;
mod offline;
mod pace;
mod places;
mod portal;
mod refusals;
mod session;
mod streams;
mod upgrade;
mod urgent;
mod usage;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use crate::api::GatewayHeartbeat;
use crate::config::{self, ConfigError, Egress, Mux, Notices, Ops, Probe, Source, Tls, V1, read_file};
use crate::frame::{Encoding, SessionCode, binary};
use crate::lifecycle::Shutdown;
use crate::mux::Limits;
use crate::net::dial::Dialer;
use crate::net::ops::Readiness;
use crate::net::resolver::Resolver;
use crate::net::tls::Identity;
use crate::net::{listener, ops, tls};

use clock::Clock;
use control::{ControlClient, ControlError};
use journal::Journal;
use keys::Keys;
use memory::Shares;
use metrics::GatewayMetrics;
use nodes::Nodes;
use offline::Acquaintances;
use pace::Paces;
use portal::Portal;
use refusals::Refusals;
use usage::Usage;

/// Answers to a heartbeat that mean that this gateway is not wanted: too old, or revoked.
const UNWELCOME: [StatusCode; 2] = [StatusCode::UPGRADE_REQUIRED, StatusCode::UNAUTHORIZED];
const HEARTBEAT_RETRY: Duration = Duration::from_secs(1);

/// What the gateway's parts share.
struct Shared {
    gateway: config::Gateway,
    tunnel: config::Tunnel,
    relay: config::Relay,
    egress: Egress,
    notices: Notices,
    lookups: egress::Lookups,
    limits: Arc<Limits>,
    shares: Shares,
    v1_message_max: usize,
    tls: Arc<ServerConfig>,
    control: ControlClient,
    clock: Arc<Clock>,
    keys: Keys,
    nodes: Nodes,
    paces: Paces,
    acquaintances: Acquaintances,
    refusals: Refusals,
    portal: Portal,
    usage: Usage,
    metrics: GatewayMetrics,
    met_control: AtomicBool,
    ordered_drain: AtomicBool,
    /// Counts events that end sessions.
    stops: AtomicU64,
    /// Why the control plane does not want this gateway, if it does not.
    unwelcome: Mutex<Option<String>>,
    beating: tokio::sync::Mutex<()>,
}

/// A gateway that is bound and has not begun to serve.
pub struct Gateway {
    shared: Arc<Shared>,
    listener: TcpListener,
    ops: Option<TcpListener>,
    certificate: Option<Vec<u8>>,
}

impl Gateway {
    /// Loads keys, opens the journal and binds the sockets.
    pub async fn bind(source: &Source) -> Result<Self, ConfigError> {
        let mut gateway: config::Gateway = source.section()?;
        let tunnel: config::Tunnel = source.section()?;
        let bad = |key, reason: String| source.unusable::<config::Gateway>(key, reason);
        if gateway.control_url.is_empty() {
            return Err(bad("control_url", "must be set".into()));
        }
        if tunnel.path.is_empty() {
            let reason = "must be set; `httvps admin keygen` proposes one";
            return Err(source.unusable::<config::Tunnel>("path", reason));
        }
        let ca = match gateway.control_ca.as_str() {
            "" => None,
            path => Some(read_file(path).map_err(|reason| bad("control_ca", reason))?),
        };
        let (tls, certificate) = identity(source)?;
        let net: config::Net = source.section()?;
        let resolver =
            Resolver::new(&net, &[]).map_err(|reason| source.unusable::<config::Net>("dns_timeout", reason))?;
        let dialer = Dialer::new(net.clone(), resolver.clone());
        let metrics = GatewayMetrics::new();
        let journal = Journal::open(Path::new(&gateway.state_dir)).map_err(|reason| bad("state_dir", reason))?;
        gateway.token =
            enrol::token(&gateway, ca.as_deref(), &dialer).await.map_err(|(key, reason)| bad(key, reason))?;
        let control =
            ControlClient::new(&gateway, ca.as_deref(), &dialer).map_err(|reason| bad("control_ca", reason))?;
        let usage =
            Usage::open(journal, gateway.clone(), metrics.clone()).await.map_err(|reason| bad("state_dir", reason))?;
        let listener = listener::bind(&gateway.listen, &net).await.map_err(|reason| bad("listen", reason))?;
        let ops: Ops = source.section()?;
        let ops = ops::bind(&ops.gateway_listen, &net)
            .await
            .map_err(|reason| source.unusable::<Ops>("gateway_listen", reason))?;
        let v1: V1 = source.section()?;
        let mux: Mux = source.section()?;
        let egress: Egress = source.section()?;
        let limits = Arc::new(Limits::new(&mux, &v1, source.section::<config::Padding>()?.scheme));
        let resolver = match egress.name_servers().as_slice() {
            [] => resolver,
            servers => Resolver::new(&net, servers).map_err(|reason| source.unusable::<Egress>("resolvers", reason))?,
        };
        let shared = Shared {
            relay: source.section()?,
            lookups: egress::Lookups::new(egress.lookups, resolver),
            egress,
            notices: source.section()?,
            shares: Shares::new(Arc::clone(&limits.memory), &mux),
            limits,
            v1_message_max: usize::try_from(v1.message_max.as_u64()).unwrap_or(usize::MAX),
            tls,
            control,
            clock: Arc::new(Clock::new(source.section::<config::Clock>()?.warn_after, &metrics)),
            keys: Keys::default(),
            nodes: Nodes::new(source.section::<Probe>()?, metrics.clone()),
            paces: Paces::default(),
            acquaintances: Acquaintances::new(source.section()?),
            refusals: Refusals::default(),
            portal: Portal::new(&source.section()?),
            usage,
            metrics,
            gateway,
            tunnel,
            met_control: AtomicBool::new(false),
            ordered_drain: AtomicBool::new(false),
            stops: AtomicU64::new(0),
            unwelcome: Mutex::default(),
            beating: tokio::sync::Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), listener, ops, certificate })
    }

    /// Where clients connect.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the operations listener is, if there is one.
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The self-signed certificate in PEM, if one was made.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Serves until drained: sessions end first, then their usage is reported.
    pub async fn serve(self, shutdown: Shutdown) {
        let shared = self.shared;
        let sessions = shutdown.child();
        let background = Shutdown::default();
        let front = async {
            accept::run(self.listener, Arc::clone(&shared), &shutdown, &sessions).await;
            sessions.finished().await;
            background.drain();
        };
        let aborted = async {
            tokio::select! {
                () = async { shutdown.aborted().await; tokio::time::sleep(shared.tunnel.close_timeout).await } => background.abort(),
                () = background.draining() => {}
            }
        };
        let ops = async {
            if let Some(listener) = self.ops {
                let metrics = shared.metrics.all.clone();
                ops::serve(listener, metrics, Arc::clone(&shared), shutdown.clone(), &background).await;
            }
        };
        tokio::join!(
            front,
            aborted,
            ops,
            shared.usage.run(&shared.control, &background),
            shared.keys.run(&shared.control, shared.gateway.jwks_refresh, &background),
            shared.nodes_and_heartbeat(&background),
            shared.relieve_memory(&background),
            events::run(&shared, &background),
        );
    }
}

/// The TLS configuration, and the certificate if it was made here.
fn identity(source: &Source) -> Result<(Arc<ServerConfig>, Option<Vec<u8>>), ConfigError> {
    let config: Tls = source.section()?;
    let bad = |reason: String| source.unusable::<Tls>("cert", reason);
    if !config.self_signed && config.cert.is_empty() {
        return Err(bad("must be set, or tls.self_signed for development".into()));
    }
    if config.self_signed {
        let identity = Identity::self_signed().map_err(bad)?;
        return Ok((tls::server(&identity).map_err(bad)?, Some(identity.cert)));
    }
    let identity = Identity::read(&config.cert, &config.key).map_err(bad)?;
    Ok((tls::server(&identity).map_err(bad)?, None))
}

impl Shared {
    /// Largest message of an encoding in bytes.
    fn message_max(&self, encoding: Encoding) -> usize {
        match encoding {
            Encoding::V1 => self.v1_message_max,
            Encoding::V2 => binary::MAX_MESSAGE,
        }
    }

    fn unwelcome(&self) -> MutexGuard<'_, Option<String>> {
        self.unwelcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuses_sessions(&self) -> bool {
        self.ordered_drain.load(Ordering::Relaxed) || self.unwelcome().is_some()
    }

    /// Probes begin once the first heartbeat brought the nodes.
    async fn nodes_and_heartbeat(&self, shutdown: &Shutdown) {
        while !self.heartbeat().await {
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(HEARTBEAT_RETRY) => {}
            }
        }
        let beats = async {
            loop {
                tokio::select! {
                    () = shutdown.draining() => return,
                    () = tokio::time::sleep(self.gateway.heartbeat_interval) => {}
                }
                self.heartbeat().await;
            }
        };
        tokio::join!(beats, self.nodes.run(&self.control, shutdown));
    }

    /// One at a time: an older answer must not overwrite a newer list.
    async fn heartbeat(&self) -> bool {
        let _turn = self.beating.lock().await;
        let request = GatewayHeartbeat {
            gateway_id: None,
            sessions: i64::try_from(self.usage.live_count()).unwrap_or(i64::MAX),
            streams: self.metrics.streams.get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            refusals: self.refusals.take(),
        };
        let asked_at = Instant::now();
        match self.control.heartbeat(&request).await {
            Ok(orders) => {
                self.clock.measured(orders.server_time, asked_at);
                self.nodes.replace(orders.nodes);
                self.ordered_drain.store(orders.drain, Ordering::Relaxed);
                *self.unwelcome() = None;
                if !self.met_control.swap(true, Ordering::Relaxed) {
                    tracing::info!(gateway = %orders.gateway_id, region = orders.region, "known to the control plane");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "heartbeat failed");
                self.refusals.put(request.refusals);
                if let ControlError::Refused { status, code } = error
                    && UNWELCOME.contains(&status)
                {
                    if status == StatusCode::UNAUTHORIZED {
                        self.usage.cut(|_| true, SessionCode::GoingAway);
                    }
                    *self.unwelcome() = Some(code);
                }
                false
            }
        }
    }
}

impl Readiness for Shared {
    async fn ready(&self) -> Result<(), String> {
        if let Some(code) = &*self.unwelcome() {
            return Err(format!("the control plane does not want this gateway: {code}"));
        }
        if !self.met_control.load(Ordering::Relaxed) || !self.keys.is_ready() {
            return Err("the control plane was not reached yet".into());
        }
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        self.clock.complaint().into_iter().collect()
    }

    fn refresh(&self) {
        self.clock.show();
        self.metrics.unflushed.set(i64::try_from(self.usage.unflushed()).unwrap_or(i64::MAX));
        self.metrics.waiting.set(i64::try_from(self.limits.memory.held()).unwrap_or(i64::MAX));
        self.metrics.unreported.set(i64::try_from(self.usage.unreported()).unwrap_or(i64::MAX));
    }
}
