//! Whose a connection is: listeners for balancers and proxies, PROXY headers, forwarded headers (docs/04, "Behind others").

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hyper::HeaderMap;
use hyper::header::HeaderName;
use tokio::net::{TcpListener, TcpStream};

use super::connection_limiter::{ConnectionLimiter, Permits};
use super::rejection::Rejection;
use crate::config::{self, Behind, ConfigError, Net, Source, Tunnel, key};
use crate::net::forwarded;
use crate::net::listener::{self, Inherited, Purpose};
use crate::net::proxy_protocol::{self, HeaderError, Named};

/// How a listener's connections begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    /// With a PROXY header, if they are trusted.
    has_header: bool,
    /// In clear text, without TLS.
    pub(super) is_clear: bool,
}

/// Where connections come in.
pub(super) struct Listener {
    pub(super) purpose: Purpose,
    pub(super) socket: TcpListener,
    pub(super) beginning: Beginning,
}

impl Listener {
    /// Binds all that are configured and not inherited.
    pub(super) async fn open_all(
        source: &Source,
        net: &Net,
        inherited: &mut Inherited,
    ) -> Result<Vec<Self>, ConfigError> {
        let gateway: config::Gateway = source.section()?;
        let behind: Behind = source.section()?;
        let all = [
            (key!(config::Gateway, listen), &gateway.listen, false, false),
            (key!(Behind, proxy_listen), &behind.proxy_listen, true, false),
            (key!(Behind, clear_listen), &behind.clear_listen, false, true),
            (key!(Behind, proxy_clear_listen), &behind.proxy_clear_listen, true, true),
        ];
        let mut listeners = Vec::new();
        for (key, addresses, has_header, is_clear) in all {
            let opened = listener::open_all(key, addresses, net, inherited).await;
            let opened = opened.map_err(|error| source.unusable(key, error))?;
            let beginning = Beginning { has_header, is_clear };
            listeners.extend(opened.into_iter().map(|(purpose, socket)| Self { purpose, socket, beginning }));
        }
        if listeners.is_empty() {
            return Err(source.unusable(key!(config::Gateway, listen), "must be set, or a listener of [behind]"));
        }
        Ok(listeners)
    }

    /// What the listener is called, and the scheme of URLs that lead to it.
    pub(super) fn name(&self) -> (&'static str, &'static str) {
        match (self.beginning.has_header, self.beginning.is_clear) {
            (false, false) => ("gateway", "wss"),
            (true, false) => ("gateway-proxy", "wss"),
            (false, true) => ("gateway-clear", "ws"),
            (true, true) => ("gateway-proxy-clear", "ws"),
        }
    }
}

/// What is known of a connection when it is accepted.
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) beginning: Beginning,
    /// The other end of the socket.
    from: SocketAddr,
    is_trusted: bool,
    pub(super) permits: Permits,
}

/// Who is at the other end, once the PROXY header was read if there is one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// The client, or a trusted proxy that names its clients in their requests.
    pub(super) address: SocketAddr,
    /// The end that it connected to, if that is not the socket's.
    pub(super) local: Option<SocketAddr>,
    /// Whether it is a trusted proxy, whose forwarded headers are believed.
    pub(super) forwards: bool,
}

/// Who may come in, and who they are.
pub(super) struct Arrivals {
    behind: Behind,
    header: Option<HeaderName>,
    limiter: ConnectionLimiter,
    /// It was said that a trusted proxy sends no PROXY header, or names nobody.
    complained: [AtomicBool; 2],
}

impl Arrivals {
    pub(super) fn new(limits: &Tunnel, behind: Behind) -> Self {
        Self {
            header: HeaderName::from_bytes(behind.header.as_bytes()).ok(),
            limiter: ConnectionLimiter::new(limits, &behind),
            complained: Default::default(),
            behind,
        }
    }

    /// Lets a connection in, or says why not.
    pub(super) fn admit(&self, beginning: Beginning, from: SocketAddr) -> Result<Arrival, Rejection> {
        let is_trusted = self.behind.trusted.contains(from.ip());
        if beginning.is_clear && !is_trusted {
            return Err(Rejection::Untrusted);
        }
        let admitted = if is_trusted { self.limiter.enter_unnamed(from.ip()) } else { self.limiter.enter(from.ip()) };
        Ok(Arrival { at: Instant::now(), beginning, from, is_trusted, permits: admitted? })
    }

    /// The limits for those that come on a connection that is there.
    pub(super) fn limiter(&self) -> &ConnectionLimiter {
        &self.limiter
    }

    /// Reads the PROXY header if one is due, and counts the permit for the client that it names. Fails with why the
    /// connection is refused.
    pub(super) async fn identify(&self, socket: &TcpStream, arrival: &Arrival) -> Result<Peer, Rejection> {
        let itself = Peer { address: arrival.from, local: None, forwards: arrival.is_trusted };
        if !arrival.is_trusted || !arrival.beginning.has_header {
            return Ok(itself);
        }
        let read = tokio::time::timeout(self.behind.proxy_timeout, proxy_protocol::read(socket)).await;
        let Named { client, local } = match read {
            Ok(Ok(Some(named))) => named,
            Ok(Ok(None)) => return Ok(Peer { forwards: false, ..itself }),
            Ok(Err(HeaderError::Nothing)) => return Err(Rejection::Handshake),
            Ok(Err(error)) => {
                self.complain(
                    0,
                    || tracing::warn!(proxy = %arrival.from.ip(), %error, "a trusted proxy sent no PROXY header"),
                );
                return Err(Rejection::ProxyHeader);
            }
            Err(_) => return Err(Rejection::ProxyTimeout),
        };
        let forwards = self.behind.trusted.contains(client.ip());
        if !forwards && !arrival.permits.handshake.assign_to(client.ip()) {
            return Err(Rejection::PreHello);
        }
        Ok(Peer { address: client, local: Some(local), forwards })
    }

    /// Whose a request is.
    pub(super) fn client(&self, peer: &Peer, headers: &HeaderMap) -> IpAddr {
        let ip = peer.address.ip();
        if !peer.forwards {
            return ip;
        }
        let named = self.header.as_ref().and_then(|header| forwarded::client(headers, header, &self.behind.trusted));
        named.unwrap_or_else(|| {
            let header = &self.behind.header;
            self.complain(
                1,
                || tracing::info!(proxy = %ip, header, "a trusted proxy sent a request that names no client"),
            );
            ip
        })
    }

    fn complain(&self, which: usize, say: impl FnOnce()) {
        if self.complained.get(which).is_some_and(|said| !said.swap(true, Ordering::Relaxed)) {
            say();
        }
    }
}
