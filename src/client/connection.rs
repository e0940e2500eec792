//! Keeps one tunnel to the gateway connected.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::Uri;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::dialer::{GatewayDialer, Opened};
use super::fault::{ConnectionError, DialError, OpeningError};
use super::network::{Network, Route};
use super::opening::Openings;
use super::refused::Refused;
use super::session::{ActiveTunnel, HeldSession, Outcome, ReconnectState};
use super::transports::Transports;
use crate::config::{self, ConfigError, Mux, Source, V1, key, read_file};
use crate::digest::fresh_fraction;
use crate::frame::{Encoding, Hello, Notice, Padding, Resumable, Target, Token, binary};
use crate::mux::{Event, Limits, Role};
use crate::net::dial::Dialer;
use crate::net::resolver::Resolver;
use crate::net::tls;
use crate::net::tunnel::{Carrier, Driver, Ended, Framing, Timeouts, Transport, Tunnel, TunnelStream};
use crate::net::websocket::Side;

/// How soon a v1 client moves that is told of a shutdown (docs/03, "Draining").
const V1_MOVES_WITHIN: Duration = Duration::from_secs(5);

/// The gateway's address and what to say to it.
pub(super) struct Connection {
    config: config::Client,
    dialer: GatewayDialer,
    /// Those that may get through.
    transports: Transports,
    network: Network,
    encoding: Encoding,
    limits: Arc<Limits>,
    v1_message_max: usize,
    fragments_max: usize,
    padding: Mutex<Padding>,
    idle_timeout: Duration,
    linger: Duration,
    current: watch::Sender<Option<Tunnel>>,
    openings: Openings,
}

impl Connection {
    pub(super) fn new(source: &Source, config: config::Client) -> Result<Self, ConfigError> {
        let gateway = key!(config::Client, gateway);
        let uri: Uri =
            config.gateway.parse().map_err(|error| source.unusable(gateway, format_args!("not a URL: {error}")))?;
        let (Some("wss"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(source.unusable(gateway, "must be wss://host:port/path"));
        };
        let ca = match config.ca.as_str() {
            "" => None,
            path => Some(read_file(path).map_err(|error| source.unusable(key!(config::Client, ca), error))?),
        };
        let v1: V1 = source.section()?;
        let mux: Mux = source.section()?;
        let relay: config::Relay = source.section()?;
        let tunnel: config::Tunnel = source.section()?;
        let net: config::Net = source.section()?;
        let resolver =
            Resolver::new(&net, &[]).map_err(|error| source.unusable(key!(config::Net, dns_timeout), error))?;
        let encoding = if config.encoding == "v1" { Encoding::V1 } else { Encoding::V2 };
        let is_free = config.transport == config::Transport::Auto;
        let mut transports = if is_free { config.transports.clone() } else { vec![config.transport] };
        transports.retain(|transport| encoding == Encoding::V2 || *transport != config::Transport::H2);
        if transports.is_empty() {
            return Err(source.unusable(key!(config::Client, transports), "h2 carries v2 only; v1 needs h2ws or ws"));
        }
        Ok(Self {
            dialer: GatewayDialer {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: uri.port_u16().unwrap_or(443),
                path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
                encoding,
                token: config.token.clone(),
                bearer: config.bearer,
                dialer: Dialer::new(net, resolver),
                notsent_lowat: u32::try_from(tunnel.notsent_lowat.as_u64()).unwrap_or(u32::MAX),
                tls: tls::client(ca.as_deref()).map_err(|error| source.unusable(key!(config::Client, ca), error))?,
                http2: source.section()?,
                close_timeout: tunnel.close_timeout,
            },
            transports: Transports::new(transports, config.retry_best_after),
            network: Network::new(&config),
            encoding,
            limits: Arc::new(Limits::new(&mux, &v1, Padding::default()).resumable(&source.section()?)),
            fragments_max: tunnel.fragments_max,
            padding: Mutex::new(Padding::documented()),
            v1_message_max: usize::try_from(v1.message_max.as_u64()).unwrap_or(usize::MAX),
            idle_timeout: relay.idle_timeout,
            linger: relay.linger,
            current: watch::channel(None).0,
            openings: Openings::new(&config),
            config,
        })
    }

    /// Connects, and connects again when the tunnel is lost, until the gateway refuses for good.
    pub(super) async fn keep_up(&self, up: &watch::Sender<bool>) -> Refused {
        let mut wait = self.config.backoff_min;
        let mut reconnect = ReconnectState::new(self.transports.clone());
        loop {
            let (outcome, was_up) = self.run_once(up, &mut reconnect).await;
            reconnect.held.take_if(|held| held.is_over());
            if reconnect.is_over() {
                self.current.send_replace(None);
            }
            if was_up {
                wait = self.config.backoff_min;
            }
            let jitter = 0.5 + fresh_fraction();
            let next = (wait * 2).min(self.config.backoff_max);
            let refused = matches!(outcome, Outcome::Refused(_));
            let pause = match outcome {
                Outcome::Told(refused, _) if refused.code.is_final() => return refused,
                Outcome::Told(refused, retry_after) => {
                    let (code, support_id) = (refused.code.as_str(), refused.support_id.as_deref());
                    tracing::warn!(code, support_id, "the gateway ended the session");
                    let pause = std::mem::replace(&mut wait, next).mul_f64(jitter);
                    retry_after.unwrap_or(pause).min(self.config.backoff_max)
                }
                Outcome::Lost(reason) => {
                    tracing::warn!(%reason, "gateway unreachable or connection lost; retrying");
                    if was_up { Duration::ZERO } else { self.config.backoff_min.mul_f64(jitter) }
                }
                Outcome::Refused(reason) => {
                    tracing::warn!(%reason, transport = ?reconnect.transports.current(), "failed to connect; retrying");
                    reconnect.transports.fall_back();
                    std::mem::replace(&mut wait, next).mul_f64(jitter)
                }
                Outcome::Elsewhere => {
                    wait = self.config.backoff_min;
                    wait.mul_f64(jitter)
                }
                Outcome::Held(held) => {
                    tracing::warn!("connection lost; reconnecting");
                    reconnect.held = Some(held);
                    Duration::ZERO
                }
                Outcome::Moved(active, reconnect_in) => {
                    reconnect.leaving = Some(active);
                    reconnect.session = None;
                    reconnect_in.min(self.config.backoff_max)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.moved(reconnect.route), if refused => {
                    reconnect.transports.begin_anew();
                    wait = self.config.backoff_min;
                    tokio::time::sleep(wait.mul_f64(jitter).min(pause)).await;
                }
            }
        }
    }

    /// Waits until the host has another way to the gateway than it had.
    async fn moved(&self, route: Option<Route>) {
        match route {
            Some(route) => self.network.until(|| route.is_left()).await,
            None => std::future::pending().await,
        }
    }

    /// One connection from its beginning to its end. It goes on with a session that is held, or takes over from one that the
    /// gateway wants to end.
    async fn run_once(&self, up: &watch::Sender<bool>, reconnect: &mut ReconnectState) -> (Outcome, bool) {
        let limit = self.config.connect_timeout;
        let transport = reconnect.transports.next();
        let known = reconnect.route.map(Route::anew);
        reconnect.route = known;
        let opened = tokio::select! {
            opened = timeout(limit, self.connect(transport, &mut reconnect.route)) => match opened {
                Ok(Ok(opened)) => opened,
                Ok(Err(error @ DialError::Unreachable(_))) => return (Outcome::Lost(error.into()), false),
                Ok(Err(error @ DialError::Refused(_))) => return (Outcome::Refused(error.into()), false),
                Err(_) => return (Outcome::Refused(ConnectionError::TimedOut), false),
            },
            () = self.moved(known) => {
                reconnect.transports.begin_anew();
                return (Outcome::Elsewhere, false);
            }
        };
        let tunnel = if let Some(held) = &reconnect.held {
            held.tunnel.resume_with(self.hello(reconnect), &held.ticket, &self.padding());
            held.tunnel.clone()
        } else {
            let tunnel = Tunnel::new(Role::Client, self.encoding, Arc::clone(&self.limits));
            tunnel.hello(self.hello(reconnect), &self.padding());
            tunnel
        };
        let driving = match opened {
            Opened::WebSocket(socket) => self.drive(TokioIo::new(socket), Framing::WebSocket(Side::Client), &tunnel),
            Opened::Http2(channel, framing) => self.drive(channel, framing, &tunnel),
        };
        let mut active = ActiveTunnel { tunnel, driving };
        if reconnect.is_over() {
            self.current.send_replace(Some(active.tunnel.clone()));
        }
        let answer = tokio::select! {
            biased;
            event = active.tunnel.next_event() => Ok(event),
            () = tokio::time::sleep(limit) => Err(Outcome::Refused(ConnectionError::NoAnswer)),
            () = self.moved(reconnect.route) => {
                reconnect.transports.begin_anew();
                Err(Outcome::Elsewhere)
            }
        };
        let was_left = answer.is_err();
        let answer = answer.or_else(|outcome| {
            active.tunnel.leave();
            active.tunnel.next_event().now_or_never().ok_or(outcome)
        });
        let ok = match answer {
            Ok(Some(Event::Accepted(ok))) => ok,
            Ok(Some(Event::Ended { code, message, retry_after })) => {
                active.tunnel.leave();
                reconnect.held.take_if(|_| code.is_final());
                return (Outcome::Told(Refused::new(code, &message), retry_after), false);
            }
            Ok(Some(_)) => {
                active.tunnel.leave();
                return (Outcome::Lost(ConnectionError::NoAnswer), false);
            }
            Ok(None) => return (Outcome::Refused(ConnectionError::BeforeHelloOk(active.end().await)), false),
            Err(outcome) => {
                active.leave();
                return (outcome, false);
            }
        };
        if let Some(held) = reconnect.held.take() {
            held.has_resumed();
        }
        let resumed = ok.resume.as_ref().is_some_and(|resumable| resumable.resumed);
        tracing::info!(session = ok.session_id, ?transport, resumed, "tunnel is up");
        if let Some(padding) = ok.padding.filter(Padding::is_valid) {
            active.tunnel.pad(&padding);
            *self.padding.lock().unwrap_or_else(PoisonError::into_inner) = padding;
        }
        reconnect.session = Some(ok.session_id);
        if let (true, Some(resumable)) = (was_left && active.tunnel.is_held(), &ok.resume) {
            return (Outcome::Held(HeldSession::new(&active.tunnel, resumable.clone())), true);
        }
        self.current.send_replace(Some(active.tunnel.clone()));
        if let Some(old) = reconnect.leaving.take() {
            tokio::spawn(old.finish());
        }
        up.send_replace(true);
        (self.follow(active, reconnect, ok.resume).await, true)
    }

    /// A connection to the gateway, and over it what carries a tunnel.
    async fn connect(&self, transport: config::Transport, route: &mut Option<Route>) -> Result<Opened, DialError> {
        let socket = self.dialer.dial().await?;
        *route = Route::of(&socket);
        Ok(self.dialer.open(socket, transport, self.transports.contain(config::Transport::Ws)).await?)
    }

    /// Hears what the gateway has to say until the connection ends, or the host is in another network. A session that cannot be
    /// resumed keeps its connection as long as that has its address.
    async fn follow(
        &self,
        mut active: ActiveTunnel,
        reconnect: &mut ReconnectState,
        resumable: Option<Resumable>,
    ) -> Outcome {
        let (route, may_move) = (reconnect.route, resumable.is_some());
        let is_over = || route.is_some_and(|route| route.is_gone() || may_move && route.is_left());
        let mut over = pin!(self.network.until(is_over));
        loop {
            let event = tokio::select! {
                biased;
                event = active.tunnel.next_event() => event,
                () = &mut over => {
                    tracing::info!("the host is in another network");
                    reconnect.transports.begin_anew();
                    let tunnel = active.tunnel.clone();
                    return match resumable {
                        Some(resumable) if active.leave() => Outcome::Held(HeldSession::new(&tunnel, resumable)),
                        Some(_) | None => Outcome::Lost(ConnectionError::Elsewhere),
                    };
                }
            };
            match event {
                Some(Event::Ended { code, message, retry_after }) => {
                    return Outcome::Told(Refused::new(code, &message), retry_after);
                }
                Some(Event::Notice(Notice::Maintenance { .. })) if self.encoding == Encoding::V1 => {
                    return Outcome::Moved(active, V1_MOVES_WITHIN.mul_f64(fresh_fraction()));
                }
                Some(Event::Notice(notice)) => tracing::warn!(?notice, "notice from the gateway"),
                Some(Event::GoingAway { reconnect_in, .. }) => return Outcome::Moved(active, reconnect_in),
                Some(Event::Held) => {
                    return match resumable {
                        Some(resumable) => Outcome::Held(HeldSession::new(&active.tunnel, resumable)),
                        None => Outcome::Lost(ConnectionError::NotResumable),
                    };
                }
                Some(_) => {}
                None => return Outcome::Lost(active.end().await.into()),
            }
        }
    }

    /// Starts a driver for what carries the tunnel.
    fn drive<C>(&self, carrier: C, framing: Framing, tunnel: &Tunnel) -> JoinHandle<Ended>
    where
        C: Carrier + Send + 'static,
    {
        let transport = Transport {
            framing,
            encoding: self.encoding,
            message_max: match self.encoding {
                Encoding::V1 => self.v1_message_max,
                Encoding::V2 => binary::MAX_MESSAGE,
            },
            hello_max: usize::MAX,
            fragments_max: self.fragments_max,
            close_timeout: self.config.connect_timeout,
        };
        tokio::spawn(Driver::new(carrier, Bytes::new(), tunnel.clone(), transport).run())
    }

    fn hello(&self, reconnect: &ReconnectState) -> Hello {
        Hello {
            device_id: self.config.device_id.clone(),
            access_token: Token::from(self.config.token.expose().to_owned()),
            region: self.config.region.clone(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: std::env::consts::OS.to_owned(),
            features: self.config.features,
            keepalive: u32::try_from(self.config.keepalive.as_secs()).ok().filter(|seconds| *seconds > 0),
            resume: None,
            replaces: reconnect.session.clone(),
        }
    }

    /// The scheme the last gateway gave, or the documented one.
    fn padding(&self) -> Padding {
        self.padding.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The current tunnel once streams may be opened on it; waits for one up to the connect timeout.
    pub(super) async fn tunnel(&self) -> Result<Tunnel, OpeningError> {
        let mut current = self.current.subscribe();
        let wait = current.wait_for(|tunnel| tunnel.as_ref().is_some_and(Tunnel::is_open));
        let tunnel = match timeout(self.config.connect_timeout, wait).await {
            Ok(Ok(tunnel)) => tunnel.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        tunnel.ok_or(OpeningError::NoTunnel)
    }

    /// Opens a stream once there is room and it may.
    pub(super) async fn open(&self, target: &Target, first: &Bytes) -> Result<TunnelStream, OpeningError> {
        self.openings.open(self, target, first).await
    }

    /// The same for datagrams.
    pub(super) async fn open_udp(&self) -> Result<TunnelStream, OpeningError> {
        self.openings.open_udp(self).await
    }

    /// How long a new stream waits for the program's first bytes.
    pub(super) fn coalesce(&self) -> Duration {
        self.config.coalesce
    }

    /// How long streams may stand still.
    pub(super) fn timeouts(&self) -> Timeouts {
        let half_open = match self.encoding {
            Encoding::V1 => self.config.v1_linger,
            Encoding::V2 => self.idle_timeout,
        };
        Timeouts { idle: self.idle_timeout, half_open, linger: self.linger }
    }
}
