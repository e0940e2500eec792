//! Keeps one tunnel to the gateway up.

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

use super::door::{Door, Opened, Shut};
use super::line::{Held, Line, Past};
use super::network::{Network, Route};
use super::opening::Openings;
use super::refused::Refused;
use super::transports::Transports;
use crate::config::{self, ConfigError, Mux, Source, V1, read_file};
use crate::digest::fresh_fraction;
use crate::frame::{Encoding, Hello, Notice, Padding, Resumable, Target, Token, binary};
use crate::mux::{Event, Limits, Role};
use crate::net::dial::Dialer;
use crate::net::resolver::Resolver;
use crate::net::tls;
use crate::net::tunnel::{Carrier, Driver, Ended, Framing, Patience, Transport, Tunnel, TunnelStream};
use crate::net::websocket::Side;

/// How soon a v1 client moves that is told of a shutdown (docs/03, "Draining").
const V1_MOVES_WITHIN: Duration = Duration::from_secs(5);

/// The gateway's address and what to say to it.
pub(super) struct Link {
    config: config::Client,
    door: Door,
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

enum Outcome {
    /// The gateway said why, and maybe when to come back.
    Told(Refused, Option<Duration>),
    /// The connection failed or was lost.
    Lost(String),
    /// The transport did not get through.
    Refused(String),
    /// The connection was being made over a network that is not the host's any more.
    Elsewhere,
    /// The connection was lost, and the session may be held.
    Held(Held),
    /// The gateway wants the next tunnel elsewhere or later; this one goes on until then.
    Moved(Line, Duration),
}

impl Link {
    pub(super) fn new(source: &Source, config: config::Client) -> Result<Self, ConfigError> {
        let bad = |key, reason: String| source.unusable::<config::Client>(key, reason);
        let uri: Uri = config.gateway.parse().map_err(|error| bad("gateway", format!("not a URL: {error}")))?;
        let (Some("wss"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(bad("gateway", "must be wss://host:port/path".into()));
        };
        let ca = match config.ca.as_str() {
            "" => None,
            path => Some(read_file(path).map_err(|reason| bad("ca", reason))?),
        };
        let v1: V1 = source.section()?;
        let mux: Mux = source.section()?;
        let relay: config::Relay = source.section()?;
        let tunnel: config::Tunnel = source.section()?;
        let net: config::Net = source.section()?;
        let resolver =
            Resolver::new(&net, &[]).map_err(|reason| source.unusable::<config::Net>("dns_timeout", reason))?;
        let encoding = if config.encoding == "v1" { Encoding::V1 } else { Encoding::V2 };
        let is_free = config.transport == config::Transport::Auto;
        let mut transports = if is_free { config.transports.clone() } else { vec![config.transport] };
        transports.retain(|transport| encoding == Encoding::V2 || *transport != config::Transport::H2);
        if transports.is_empty() {
            return Err(bad("transports", "h2 carries v2 only; v1 needs h2ws or ws".into()));
        }
        Ok(Self {
            door: Door {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: uri.port_u16().unwrap_or(443),
                path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
                encoding,
                token: config.token.clone(),
                bearer: config.bearer,
                dialer: Dialer::new(net, resolver),
                notsent_lowat: u32::try_from(tunnel.notsent_lowat.as_u64()).unwrap_or(u32::MAX),
                tls: tls::client(ca.as_deref()).map_err(|reason| bad("ca", reason))?,
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
        let mut past = Past::new(self.transports.clone());
        loop {
            let (outcome, was_up) = self.run_once(up, &mut past).await;
            past.held.take_if(|held| held.is_over());
            if past.is_over() {
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
                    tracing::warn!(reason, "no tunnel");
                    if was_up { Duration::ZERO } else { self.config.backoff_min.mul_f64(jitter) }
                }
                Outcome::Refused(reason) => {
                    tracing::warn!(reason, transport = ?past.transports.current(), "no tunnel");
                    past.transports.fall_back();
                    std::mem::replace(&mut wait, next).mul_f64(jitter)
                }
                Outcome::Elsewhere => {
                    wait = self.config.backoff_min;
                    wait.mul_f64(jitter)
                }
                Outcome::Held(held) => {
                    tracing::warn!("the connection is lost");
                    past.held = Some(held);
                    Duration::ZERO
                }
                Outcome::Moved(line, reconnect_in) => {
                    past.leaving = Some(line);
                    past.session = None;
                    reconnect_in.min(self.config.backoff_max)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.moved(past.route), if refused => {
                    past.transports.begin_anew();
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
    async fn run_once(&self, up: &watch::Sender<bool>, past: &mut Past) -> (Outcome, bool) {
        let limit = self.config.connect_timeout;
        let transport = past.transports.next();
        let known = past.route.map(Route::anew);
        past.route = known;
        let opened = tokio::select! {
            opened = timeout(limit, self.connect(transport, &mut past.route)) => match opened {
                Ok(Ok(opened)) => opened,
                Ok(Err(Shut::Unreachable(reason))) => return (Outcome::Lost(reason), false),
                Ok(Err(Shut::Refused(reason))) => return (Outcome::Refused(reason), false),
                Err(_) => return (Outcome::Refused("timed out".into()), false),
            },
            () = self.moved(known) => {
                past.transports.begin_anew();
                return (Outcome::Elsewhere, false);
            }
        };
        let tunnel = if let Some(held) = &past.held {
            held.tunnel.resume_with(self.hello(past), &held.ticket, &self.padding());
            held.tunnel.clone()
        } else {
            let tunnel = Tunnel::new(Role::Client, self.encoding, Arc::clone(&self.limits));
            tunnel.hello(self.hello(past), &self.padding());
            tunnel
        };
        let driving = match opened {
            Opened::WebSocket(socket) => self.drive(TokioIo::new(socket), Framing::WebSocket(Side::Client), &tunnel),
            Opened::Http2(channel, framing) => self.drive(channel, framing, &tunnel),
        };
        let mut line = Line { tunnel, driving };
        if past.is_over() {
            self.current.send_replace(Some(line.tunnel.clone()));
        }
        let answer = tokio::select! {
            biased;
            event = line.tunnel.next_event() => Ok(event),
            () = tokio::time::sleep(limit) => Err(Outcome::Refused("no answer to hello".into())),
            () = self.moved(past.route) => {
                past.transports.begin_anew();
                Err(Outcome::Elsewhere)
            }
        };
        let was_left = answer.is_err();
        let answer = answer.or_else(|outcome| {
            line.tunnel.leave();
            line.tunnel.next_event().now_or_never().ok_or(outcome)
        });
        let ok = match answer {
            Ok(Some(Event::Accepted(ok))) => ok,
            Ok(Some(Event::Ended { code, message, retry_after })) => {
                line.tunnel.leave();
                past.held.take_if(|_| code.is_final());
                return (Outcome::Told(Refused::new(code, &message), retry_after), false);
            }
            Ok(Some(_)) => return (Outcome::Lost("no answer to hello".into()), false),
            Ok(None) => return (Outcome::Refused(format!("before hello_ok: {}", line.end().await)), false),
            Err(outcome) => {
                line.leave();
                return (outcome, false);
            }
        };
        if let Some(held) = past.held.take() {
            held.has_resumed();
        }
        let resumed = ok.resume.as_ref().is_some_and(|resumable| resumable.resumed);
        tracing::info!(session = ok.session_id, ?transport, resumed, "tunnel is up");
        if let Some(padding) = ok.padding.filter(Padding::is_valid) {
            line.tunnel.pad(&padding);
            *self.padding.lock().unwrap_or_else(PoisonError::into_inner) = padding;
        }
        past.session = Some(ok.session_id);
        if let (true, Some(resumable)) = (was_left && line.tunnel.is_held(), &ok.resume) {
            return (Outcome::Held(Held::new(&line.tunnel, resumable.clone())), true);
        }
        self.current.send_replace(Some(line.tunnel.clone()));
        if let Some(old) = past.leaving.take() {
            tokio::spawn(old.finish());
        }
        up.send_replace(true);
        (self.follow(line, past, ok.resume).await, true)
    }

    /// A connection to the gateway, and over it what carries a tunnel.
    async fn connect(&self, transport: config::Transport, route: &mut Option<Route>) -> Result<Opened, Shut> {
        let socket = self.door.dial().await?;
        *route = Route::of(&socket);
        self.door.open(socket, transport, self.transports.contain(config::Transport::Ws)).await
    }

    /// Hears what the gateway has to say until the connection ends, or the host is in another network. A session that cannot be
    /// resumed keeps its connection as long as that has its address.
    async fn follow(&self, mut line: Line, past: &mut Past, resumable: Option<Resumable>) -> Outcome {
        let (route, may_move) = (past.route, resumable.is_some());
        let is_over = || route.is_some_and(|route| route.is_gone() || may_move && route.is_left());
        let mut over = pin!(self.network.until(is_over));
        loop {
            let event = tokio::select! {
                event = line.tunnel.next_event() => event,
                () = &mut over => {
                    tracing::info!("the host is in another network");
                    past.transports.begin_anew();
                    let tunnel = line.tunnel.clone();
                    return match resumable {
                        Some(resumable) if line.leave() => Outcome::Held(Held::new(&tunnel, resumable)),
                        Some(_) | None => Outcome::Lost("the host is in another network".into()),
                    };
                }
            };
            match event {
                Some(Event::Ended { code, message, retry_after }) => {
                    return Outcome::Told(Refused::new(code, &message), retry_after);
                }
                Some(Event::Notice(Notice::Maintenance { .. })) if self.encoding == Encoding::V1 => {
                    return Outcome::Moved(line, V1_MOVES_WITHIN.mul_f64(fresh_fraction()));
                }
                Some(Event::Notice(notice)) => tracing::warn!(?notice, "news from the gateway"),
                Some(Event::GoingAway { reconnect_in, .. }) => return Outcome::Moved(line, reconnect_in),
                Some(Event::Held) => {
                    return match resumable {
                        Some(resumable) => Outcome::Held(Held::new(&line.tunnel, resumable)),
                        None => Outcome::Lost("the session cannot be resumed".into()),
                    };
                }
                Some(_) => {}
                None => return Outcome::Lost(line.end().await),
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

    fn hello(&self, past: &Past) -> Hello {
        Hello {
            device_id: self.config.device_id.clone(),
            access_token: Token::from(self.config.token.expose().to_owned()),
            region: self.config.region.clone(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: std::env::consts::OS.to_owned(),
            features: self.config.features,
            keepalive: u32::try_from(self.config.keepalive.as_secs()).ok().filter(|seconds| *seconds > 0),
            resume: None,
            replaces: past.session.clone(),
        }
    }

    /// The scheme the last gateway gave, or the documented one.
    fn padding(&self) -> Padding {
        self.padding.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The current tunnel once streams may be opened on it; waits for one up to the connect timeout.
    pub(super) async fn tunnel(&self) -> Result<Tunnel, String> {
        let mut current = self.current.subscribe();
        let wait = current.wait_for(|tunnel| tunnel.as_ref().is_some_and(Tunnel::is_open));
        let tunnel = match timeout(self.config.connect_timeout, wait).await {
            Ok(Ok(tunnel)) => tunnel.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        tunnel.ok_or_else(|| "no tunnel".to_owned())
    }

    /// Opens a stream once there is room and it may.
    pub(super) async fn open(&self, target: &Target, first: &Bytes) -> Result<TunnelStream, String> {
        self.openings.open(self, target, first).await
    }

    /// The same for datagrams.
    pub(super) async fn open_udp(&self) -> Result<TunnelStream, String> {
        self.openings.open_udp(self).await
    }

    /// How long a new stream waits for the program's first bytes.
    pub(super) fn coalesce(&self) -> Duration {
        self.config.coalesce
    }

    /// How long streams may stand still.
    pub(super) fn patience(&self) -> Patience {
        let half_open = match self.encoding {
            Encoding::V1 => self.config.v1_linger,
            Encoding::V2 => self.idle_timeout,
        };
        Patience { idle: self.idle_timeout, half_open, linger: self.linger }
    }
}
