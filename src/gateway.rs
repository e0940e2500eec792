//! The gateway: clients' tunnels in front, Shadowsocks nodes behind (docs/04).

mod accept;
mod account;
mod acme;
mod admission;
mod arrival;
mod association;
mod atomic_file;
mod body;
mod certificates;
mod circuit;
mod circuit_breaker;
mod connection_limiter;
mod control;
mod control_clock;
mod drain;
mod edge;
pub(crate) mod egress;
mod enroll;
mod events;
mod heartbeat;
mod http2;
mod journal;
mod keys;
mod memory;
mod metrics;
mod nodes;
mod offline;
mod persist;
mod portal;
mod rate_limiter;
mod refusals;
mod rejection;
mod report_queue;
mod request_limiter;
mod resume;
mod serving;
mod session;
mod sqlite;
mod state;
mod store;
mod streams;
mod takeover;
mod tunnel;
mod upgrade;
mod usage;
mod window_share;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use uuid::Uuid;

use crate::clock::Clock;
use crate::config::{self, ConfigError, Egress, Mux, Ops, Probe, Source, Tls, V1, key, read_file};
use crate::mux::Limits;
use crate::net::dial::Dialer;
use crate::net::listener::{self, Inherited, Purpose};
use crate::net::resolver::Resolver;
use crate::net::tls;

use arrival::{Arrivals, Listener};
use control::ControlClient;
use control_clock::ControlClock;
use drain::Drain;
use edge::Site;
use journal::Journal;
use keys::Keys;
use memory::Shares;
use metrics::GatewayMetrics;
use nodes::Nodes;
use offline::OfflineCache;
use persist::{Persist, SavedState};
use portal::Portal;
use rate_limiter::RateLimiters;
use refusals::Refusals;
use request_limiter::RequestLimiter;
use resume::Resumptions;
use state::GatewayState;
use store::StoreError;
pub use takeover::TakeoverError;
use takeover::{Claim, Predecessor};
use usage::Usage;

/// A gateway that is bound and has not begun to serve.
pub struct Gateway {
    state: Arc<GatewayState>,
    listeners: Vec<Listener>,
    ops: Option<(Purpose, TcpListener)>,
    claim: Claim,
    /// The process that serves until this one does.
    predecessor: Option<Predecessor>,
    certificate: Option<Vec<u8>>,
    /// The last event that an earlier process had acted on.
    cursor: events::EventCursor,
}

impl Gateway {
    /// Loads keys, opens the journal and binds the sockets that are not inherited. A process that serves from the same
    /// `state_dir` hands over its own, and goes on until [`Gateway::succeed`].
    pub async fn bind(source: &Source, clock: Clock, mut inherited: Inherited) -> Result<Self, ConfigError> {
        let mut gateway: config::Gateway = source.section()?;
        let tunnel: config::Tunnel = source.section()?;
        let http2: config::Http2 = source.section()?;
        let state_dir = key!(config::Gateway, state_dir);
        let ca = given(source, &gateway, &tunnel)?;
        let net: config::Net = source.section()?;
        let resolver =
            Resolver::new(&net, &[]).map_err(|error| source.unusable(key!(config::Net, dns_timeout), error))?;
        let dialer = Dialer::new(net.clone(), resolver.clone());
        let metrics = GatewayMetrics::new();
        let certificates = certificates::load(source, &clock, &metrics.all)?;
        let protocols: &[&str] = if http2.enabled { &[tls::H2, tls::HTTP_1_1] } else { &[tls::HTTP_1_1] };
        let tls = tls::server(Arc::clone(&certificates.all), certificates.tickets, protocols);
        let tls = tls.map_err(|error| source.unusable(key!(Tls, cert), error))?;
        let acme = certificates::obtaining(source, certificates.obtained, &tls, &metrics.all).await?;
        let clock = Arc::new(ControlClock::new(clock, source.section()?, &metrics));
        let folder = Path::new(&gateway.state_dir);
        let claimed = Claim::make(folder, gateway.takeover_timeout, &mut inherited).await;
        let (claim, mut predecessor) = claimed.map_err(|error| source.unusable(state_dir, error))?;
        let journal = Journal::open(folder).map_err(|error| source.unusable(state_dir, error))?;
        let token = enroll::token(&gateway, ca.as_deref(), &dialer).await;
        gateway.token = token.map_err(|invalid| source.locate(&invalid))?;
        let offline: config::Offline = source.section()?;
        let shown = Some(metrics.control_reachable.clone());
        let control = ControlClient::new(&gateway, ca.as_deref(), &dialer, shown)
            .map_err(|error| source.unusable(key!(config::Gateway, control_ca), error))?;
        let usage = Usage::open(journal, gateway.clone(), metrics.clone(), Arc::clone(&clock))
            .await
            .map_err(|error| source.unusable(state_dir, error))?;
        let listeners = Listener::open_all(source, &net, &mut inherited).await?;
        let ops = operations_listener(source, &net, &mut inherited).await?;
        inherited.close();
        if let Some(predecessor) = &predecessor {
            let listening: Vec<&Purpose> = listeners.iter().map(|listener| &listener.purpose).collect();
            let is_same = predecessor.is_same(&gateway, &listening);
            is_same.map_err(|error| source.unusable(state_dir, error))?;
        }
        let (v1, mux, egress): (V1, Mux, Egress) = (source.section()?, source.section()?, source.section()?);
        let padding = source.section::<config::Padding>()?.scheme;
        let limits = Arc::new(Limits::new(&mux, &v1, padding).resumable(&source.section()?));
        let resolver = match egress.name_servers().as_slice() {
            [] => resolver,
            servers => Resolver::new(&net, servers).map_err(|error| source.unusable(key!(Egress, resolvers), error))?,
        };
        let site = Site::new(&source.section()?, &dialer).map_err(|invalid| source.locate(&invalid))?;
        let max_age = offline.max_age;
        let relay: config::Relay = source.section()?;
        let kept = kept_state(&gateway, offline.flush_interval, predecessor.as_mut()).await;
        let (persist, kept) = kept.map_err(|error| source.unusable(state_dir, error))?;
        let state = GatewayState {
            instance: Uuid::new_v4(),
            alone: AtomicBool::new(predecessor.is_none()),
            drain: Drain::new(&gateway),
            arrivals: Arrivals::new(&tunnel, source.section()?),
            lookups: egress::Lookups::new(egress.lookups, resolver),
            egress,
            notices: source.section()?,
            shares: Shares::new(Arc::clone(&limits.memory), &mux),
            resumptions: Resumptions::new(source.section()?, Arc::clone(&limits.kept)),
            limits,
            v1_message_max: usize::try_from(v1.message_max.as_u64()).unwrap_or(usize::MAX),
            tls,
            certificates: certificates.all,
            acme,
            exposed: certificates::is_exposed(
                certificates.made.as_deref(),
                listeners.iter().filter_map(|listener| listener.socket.local_addr().ok()).map(|addr| addr.ip()),
            ),
            control,
            keys: Keys::new(gateway.jwks_retry, Arc::clone(&clock), metrics.tokens.clone()),
            nodes: Nodes::new(source.section::<Probe>()?, &relay, dialer.clone(), metrics.clone()),
            relay,
            rate_limiters: RateLimiters::new(source.section()?),
            offline: OfflineCache::new(offline, Arc::clone(&clock)),
            persist,
            clock,
            refusals: Refusals::new(gateway.refusals_kept),
            portal: Portal::new(&source.section()?),
            site,
            hellos: RequestLimiter::new(tunnel.hellos_per_minute, tunnel.hello_devices_max),
            usage,
            metrics,
            gateway,
            tunnel,
            http2,
            met_control: AtomicBool::new(false),
            has_nodes: AtomicBool::new(false),
            late_events: AtomicBool::new(false),
            ordered_drain: AtomicBool::new(false),
            stops: AtomicU64::new(0),
            session_stops: AtomicU64::new(0),
            unwelcome: Mutex::default(),
            heartbeat_turn: tokio::sync::Mutex::default(),
        };
        let cursor = state.restore(&kept, max_age);
        let state = Arc::new(state);
        Ok(Self { state, listeners, ops, claim, predecessor, certificate: certificates.made, cursor })
    }

    /// Where clients and proxies connect: what each listener is called, and its URL; at least one.
    pub fn urls(&self) -> std::io::Result<Vec<(&'static str, String)>> {
        let url = |listener: &Listener| {
            let (name, scheme) = listener.name();
            Ok((name, format!("{scheme}://{}", listener.socket.local_addr()?)))
        };
        self.listeners.iter().map(url).collect()
    }

    /// Where the operations listener is, if there is one.
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops.as_ref().and_then(|(_, listener)| listener.local_addr().ok())
    }

    /// The self-signed certificate in PEM, if one was made.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.certificate.as_deref()
    }

    /// Has the process that served until now drain, if there is one; from now on another can follow this one. Fails if that
    /// one serves on.
    pub async fn succeed(&mut self) -> Result<(), TakeoverError> {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.retire().await?;
        }
        self.claim.open_up();
        Ok(())
    }
}

/// Fails without what has no default; gives the authority of the control plane's certificate, if there is one.
fn given(source: &Source, gateway: &config::Gateway, tunnel: &config::Tunnel) -> Result<Option<Vec<u8>>, ConfigError> {
    if gateway.control_url.is_empty() {
        return Err(source.unusable(key!(config::Gateway, control_url), "must be set"));
    }
    if tunnel.path.is_empty() {
        let reason = "must be set; `httvps admin keygen` proposes one";
        return Err(source.unusable(key!(config::Tunnel, path), reason));
    }
    if gateway.control_ca.is_empty() {
        return Ok(None);
    }
    let ca = read_file(&gateway.control_ca);
    ca.map(Some).map_err(|error| source.unusable(key!(config::Gateway, control_ca), error))
}

async fn operations_listener(
    source: &Source,
    net: &config::Net,
    inherited: &mut Inherited,
) -> Result<Option<(Purpose, TcpListener)>, ConfigError> {
    let address = source.section::<Ops>()?.gateway_listen;
    if address.is_empty() {
        return Ok(None);
    }
    let key = key!(Ops, gateway_listen);
    let opened = listener::open(key, &address, net, inherited).await;
    opened.map(Some).map_err(|error| source.unusable(key, error))
}

/// Why there is nothing of what an earlier process had kept.
#[derive(Debug, thiserror::Error)]
enum KeptError {
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an earlier process had kept; one that serves writes it now.
async fn kept_state(
    gateway: &config::Gateway,
    flush_interval: Duration,
    predecessor: Option<&mut Predecessor>,
) -> Result<(Persist, SavedState), KeptError> {
    if let Some(predecessor) = predecessor {
        predecessor.release_state().await?;
    }
    Ok(Persist::open(Path::new(&gateway.state_dir), &gateway.control_url, flush_interval)?)
}
