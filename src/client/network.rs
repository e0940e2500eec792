//! Whether the host is still in the network over which it reached the gateway.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::config;

#[cfg(target_os = "linux")]
use netlink::Changes;
#[cfg(not(target_os = "linux"))]
use unknown::Changes;

/// Knows when addresses or routes of the host change.
pub(super) struct Network {
    changes: Option<Changes>,
    debounce: Duration,
}

impl Network {
    /// Watches, if it may and can.
    pub(super) fn new(config: &config::Client) -> Self {
        let watched = config.watch_network.then(Changes::watch);
        let changes = watched.and_then(|changes| {
            changes.inspect_err(|error| tracing::debug!(%error, "cannot watch for network changes")).ok()
        });
        Self { changes, debounce: config.network_settle }
    }

    /// Waits until something holds, looking again after each change; forever if changes are not watched.
    pub(super) async fn until(&self, holds: impl Fn() -> bool) {
        let Some(changes) = &self.changes else { return std::future::pending().await };
        while !holds() {
            if let Err(error) = changes.next().await {
                tracing::debug!(%error, "stopped watching for network changes");
                return std::future::pending().await;
            }
            tokio::time::sleep(self.debounce).await;
            changes.forget();
        }
    }
}

/// How packets travel to the gateway.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    peer: SocketAddr,
    /// The connection's own end, if there is one.
    local: Option<SocketAddr>,
    /// The address that packets left from when the connection began.
    source: Option<IpAddr>,
}

impl Route {
    /// The route of a connection.
    pub(super) fn of(socket: &TcpStream) -> Option<Self> {
        let (local, peer) = (socket.local_addr().ok()?, socket.peer_addr().ok()?);
        Some(Self { peer, local: Some(local), source: source(peer) })
    }

    /// The route to the same address that a connection would take now.
    pub(super) fn anew(self) -> Self {
        Self { peer: self.peer, local: None, source: source(self.peer) }
    }

    /// Whether the connection's address is not the host's any more.
    pub(super) fn is_gone(&self) -> bool {
        self.local.is_some_and(|mut local| {
            local.set_port(0);
            UdpSocket::bind(local).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
        })
    }

    /// Whether a connection would take another route now.
    pub(super) fn is_left(&self) -> bool {
        let is_known = self.source.is_some() || self.local.is_none();
        self.is_gone() || is_known && !is_one_network(self.source, source(self.peer))
    }
}

/// The address that packets to another one leave from; nothing is sent.
fn source(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(peer).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// Addresses of one IPv6 network take turns (RFC 8981).
fn is_one_network(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    match (one, other) {
        (Some(IpAddr::V6(one)), Some(IpAddr::V6(other))) => one.to_bits() >> 64 == other.to_bits() >> 64,
        _ => one == other,
    }
}

#[cfg(target_os = "linux")]
mod netlink {
    use std::io;

    use rustix::io::Errno;
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    use tokio::net::UdpSocket;

    /// Groups of rtnetlink(7), by their numbers: links; addresses, routes and rules of IPv4; the same of IPv6.
    const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];
    /// That there is a message is all that is read of it.
    const START: usize = 16;

    /// Messages of the kernel; the type is tokio's for sockets that datagrams come from.
    pub(super) struct Changes(UdpSocket);

    impl Changes {
        pub(super) fn watch() -> io::Result<Self> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            let groups = GROUPS.iter().fold(0, |groups, group| groups | 1 << (group - 1));
            bind(&socket, &SocketAddrNetlink::new(0, groups))?;
            Ok(Self(UdpSocket::from_std(socket.into())?))
        }

        /// Waits for a change; one that was lost for want of room is one, too.
        pub(super) async fn next(&self) -> io::Result<()> {
            match self.0.recv(&mut [0; START]).await {
                Ok(_) => Ok(()),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => Ok(()),
                Err(error) => Err(error),
            }
        }

        /// Leaves out what has come meanwhile.
        pub(super) fn forget(&self) {
            while self.0.try_recv(&mut [0; START]).is_ok() {}
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod unknown {
    use std::io;

    pub(super) struct Changes(std::convert::Infallible);

    impl Changes {
        pub(super) fn watch() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) async fn next(&self) -> io::Result<()> {
            match self.0 {}
        }

        pub(super) fn forget(&self) {
            match self.0 {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_take_turns() {
        let ip = |text: &str| Some(text.parse().unwrap());
        assert!(is_one_network(ip("2001:db8::1"), ip("2001:db8::ffff:1")));
        assert!(!is_one_network(ip("2001:db8::1"), ip("2001:db8:0:1::1")));
        assert!(!is_one_network(ip("192.0.2.1"), ip("192.0.2.2")));
        assert!(is_one_network(ip("192.0.2.1"), ip("192.0.2.1")));
        assert!(!is_one_network(ip("192.0.2.1"), None));
        assert!(is_one_network(None, None));
    }

    #[tokio::test]
    async fn a_connection_on_loopback_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let route = Route::of(&socket).unwrap();
        assert_eq!(route.source, Some(route.local.unwrap().ip()));
        assert!(!route.is_left() && !route.anew().is_left());
        let gone = Route { local: Some("192.0.2.1:1".parse().unwrap()), ..route };
        assert!(gone.is_gone() && gone.is_left() && !gone.anew().is_left());
        let elsewhere = Route { source: "127.0.0.2".parse().ok(), ..route };
        assert!(elsewhere.is_left() && !elsewhere.is_gone());
        let unknown = Route { source: None, ..route };
        assert!(!unknown.is_left(), "what could not be told when it began tells nothing");
    }
}
