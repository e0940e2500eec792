//! Listening sockets: bound here, or open before this process began.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::dial::keep_alive;
use crate::config::{Addresses, Key, Net};

/// Pause after an accept that failed for want of files or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a listener is for: the key that names it, and the address as it is written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    pub key: String,
    pub address: String,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct BindError {
    address: String,
    source: std::io::Error,
}

/// Why sockets of a service manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    #[error("a socket of the service manager cannot be used: {0}")]
    Socket(#[from] std::io::Error),
    #[error("a socket of the service manager does not listen: it must be given with Accept=no")]
    NotListening,
}

/// Listening sockets that were open before this process began: a service manager's, or those of a process that it follows.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(Option<Purpose>, std::net::TcpListener)>);

impl Inherited {
    /// Those that a service manager gave (`LISTEN_FDS`, systemd.socket(5)). It changes the environment, so there must be no
    /// other threads yet.
    pub fn from_service_manager() -> Result<Self, InheritError> {
        let mut given = ListenFd::from_env();
        let mut sockets = Vec::new();
        for at in 0..given.len() {
            sockets.extend(given.take_tcp_listener(at)?.map(|socket| (None, socket)));
        }
        if sockets.iter().all(|(_, socket)| SockRef::from(socket).is_listener().unwrap_or_default()) {
            return Ok(Self(sockets));
        }
        Err(InheritError::NotListening)
    }

    /// Adds one whose purpose is known.
    pub fn add(&mut self, purpose: Purpose, socket: OwnedFd) {
        self.0.push((Some(purpose), socket.into()));
    }

    /// Takes the one that was for the same purpose, else one that is bound to the same address.
    async fn take(&mut self, purpose: &Purpose, v6_only: bool) -> Option<std::net::TcpListener> {
        let fits = |socket: &std::net::TcpListener| {
            let is_all_v6 = socket.local_addr().is_ok_and(|local| local.is_ipv6() && local.ip().is_unspecified());
            !is_all_v6 || SockRef::from(socket).only_v6().is_ok_and(|only| only == v6_only)
        };
        let same = self.0.iter().position(|(known, socket)| known.as_ref() == Some(purpose) && fits(socket));
        let at = if let Some(at) = same {
            at
        } else {
            let wanted: Vec<SocketAddr> = tokio::net::lookup_host(&purpose.address).await.ok()?.collect();
            let is_wanted = |local: SocketAddr| wanted.contains(&local);
            self.0.iter().position(|(_, socket)| socket.local_addr().is_ok_and(is_wanted) && fits(socket))?
        };
        Some(self.0.swap_remove(at).1)
    }

    /// Closes those that nobody took.
    pub fn close(self) {
        for (_, socket) in self.0 {
            if let Ok(address) = socket.local_addr() {
                tracing::warn!(%address, "closing an inherited socket that the configuration does not name");
            }
        }
    }
}

/// Binds `host:port`; what it accepts has keepalive.
pub async fn bind(address: &str, net: &Net) -> Result<TcpListener, BindError> {
    let cannot = |source| BindError { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    SockRef::from(&listener).listen(net.backlog).map_err(cannot)?;
    keep_alive(&SockRef::from(&listener), net);
    Ok(listener)
}

/// As [`bind`], unless the socket is inherited; gives its purpose along.
pub async fn open(
    key: Key,
    address: &str,
    net: &Net,
    inherited: &mut Inherited,
) -> Result<(Purpose, TcpListener), BindError> {
    open_one(key, address, false, net, inherited).await
}

/// As [`open`], for several; `[::]` takes IPv4 along unless `0.0.0.0` has the same port.
pub async fn open_all(
    key: Key,
    addresses: &Addresses,
    net: &Net,
    inherited: &mut Inherited,
) -> Result<Vec<(Purpose, TcpListener)>, BindError> {
    let known: Vec<SocketAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let has_v4 = |port: u16| known.iter().any(|other| other.is_ipv4() && other.port() == port);
    let is_alone = |address: &str| {
        address
            .parse()
            .is_ok_and(|v6: SocketAddr| v6.is_ipv6() && v6.ip().is_unspecified() && v6.port() != 0 && has_v4(v6.port()))
    };
    let mut listeners = Vec::new();
    for address in addresses.iter() {
        listeners.push(open_one(key, address, is_alone(address), net, inherited).await?);
    }
    Ok(listeners)
}

async fn open_one(
    key: Key,
    address: &str,
    v6_only: bool,
    net: &Net,
    inherited: &mut Inherited,
) -> Result<(Purpose, TcpListener), BindError> {
    let purpose = Purpose { key: key.to_string(), address: address.to_owned() };
    let cannot = |source| BindError { address: address.to_owned(), source };
    let listener = match (inherited.take(&purpose, v6_only).await, address.parse()) {
        (Some(socket), _) => {
            keep_alive(&SockRef::from(&socket), net);
            socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket)).map_err(cannot)?
        }
        (None, Ok(v6)) if v6_only => bind_v6_only(v6, net).map_err(cannot)?,
        (None, _) => bind(address, net).await?,
    };
    Ok((purpose, listener))
}

fn bind_v6_only(address: SocketAddr, net: &Net) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(net.backlog)?;
    keep_alive(&SockRef::from(&socket), net);
    TcpListener::from_std(socket.into())
}

/// The next connection. Errors such as too many open files are logged and waited out.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "connection was closed before accept");
                    continue;
                }
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
