//! Connections to hosts with several addresses (RFC 8305) and the options of all TCP sockets (docs/04, "Names and lines").

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::resolver::Resolver;
use crate::config::Net;

/// Connects to hosts by name or address.
#[derive(Clone)]
pub struct Dialer {
    resolver: Resolver,
    net: Net,
}

impl Dialer {
    /// A dialler that resolves and staggers as configured.
    pub fn new(net: Net, resolver: Resolver) -> Self {
        Self { resolver, net }
    }

    /// A dialler as the defaults have it.
    #[cfg(test)]
    pub(crate) fn of_defaults() -> Self {
        let net: Net = crate::config::Source::with::<&str, &str>([]).unwrap().section().unwrap();
        let resolver = Resolver::new(&net, &[]).unwrap();
        Self::new(net, resolver)
    }

    /// The options of its sockets.
    pub fn options(&self) -> &Net {
        &self.net
    }

    /// Resolves a host and connects to the first of its addresses that answers; without delay, with keepalive.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let found = self.resolver.lookup(host).await?;
        let addresses: Vec<_> = found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        let socket = match addresses[..] {
            [address] => TcpStream::connect(address).await?,
            _ => race(&addresses, self.net.connect_stagger, TcpStream::connect).await?.1,
        };
        socket.set_nodelay(true)?;
        keep_alive(&SockRef::from(&socket), &self.net);
        Ok(socket)
    }

    /// The addresses of a host, one that answers first if there are several.
    pub async fn ordered(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found = self.resolver.lookup(host).await?;
        let mut addresses: Vec<_> = found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if addresses.len() > 1 {
            let (answers, _) = race(&addresses, self.net.connect_stagger, TcpStream::connect).await?;
            addresses.sort_by_key(|address| *address != answers);
        }
        Ok(addresses)
    }
}

/// Turns keepalive on; sockets that a listener accepts have what it has.
pub fn keep_alive(socket: &SockRef<'_>, net: &Net) {
    if net.keepalive_idle.is_zero() {
        return;
    }
    let keepalive = TcpKeepalive::new()
        .with_time(net.keepalive_idle)
        .with_interval(net.keepalive_interval)
        .with_retries(net.keepalive_count);
    if let Err(error) = socket.set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "failed to set TCP keepalive");
    }
}

/// Tries addresses in turn, families alternating, the next one when an attempt has failed or taken `stagger`; gives the first
/// that connects. The others are given up; if all fail, the first error.
pub async fn race<T, F>(
    addresses: &[SocketAddr],
    stagger: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<(SocketAddr, T)>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = alternating(addresses).into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failed = None;
    loop {
        match waiting.next() {
            Some(address) => {
                let attempt = connect(address);
                trying.push(async move { (address, attempt.await) });
            }
            None if trying.is_empty() => {
                return Err(failed.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address")));
            }
            None => {}
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some((address, ended)) = trying.next() => match ended {
                Ok(connected) => return Ok((address, connected)),
                Err(error) => failed = failed.or(Some(error)),
            },
            () = tokio::time::sleep(stagger), if more => {}
        }
    }
}

/// The addresses with their families in turn, beginning with the first one's (RFC 8305, section 4).
fn alternating(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut ordered = Vec::with_capacity(addresses.len());
    for address in first {
        ordered.push(address);
        ordered.extend(second.next());
    }
    ordered.extend(second);
    ordered
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::net::listener;
    use crate::net::resolver::tests::{Server, net};

    const STAGGER: Duration = Duration::from_millis(250);

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[derive(Clone, Copy)]
    enum Host {
        Answers(u64),
        Refuses(u64),
        Swallows,
    }

    /// Races hosts by their ports; gives the outcome, how long it took, and when each was tried.
    async fn raced(hosts: &[(&str, Host)]) -> (io::Result<u16>, Duration, Vec<(u16, Duration)>) {
        let begun = Instant::now();
        let tried = Mutex::new(Vec::new());
        let all: Vec<SocketAddr> = hosts.iter().map(|(text, _)| text.parse().unwrap()).collect();
        let connect = |address: SocketAddr| {
            tried.lock().unwrap().push((address.port(), begun.elapsed()));
            let host = hosts[all.iter().position(|known| *known == address).unwrap()].1;
            async move {
                match host {
                    Host::Answers(after) => sleep(Duration::from_millis(after)).await,
                    Host::Refuses(after) => {
                        sleep(Duration::from_millis(after)).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    Host::Swallows => std::future::pending().await,
                }
                Ok(())
            }
        };
        let won = race(&all, STAGGER, connect).await.map(|(address, ())| address.port());
        (won, begun.elapsed(), tried.into_inner().unwrap())
    }

    #[test]
    fn families_alternate_from_the_first() {
        let mixed = addresses(&["[::1]:1", "[::1]:2", "[::1]:3", "1.1.1.1:4", "1.1.1.1:5"]);
        assert_eq!(alternating(&mixed), addresses(&["[::1]:1", "1.1.1.1:4", "[::1]:2", "1.1.1.1:5", "[::1]:3"]));
        let mixed = addresses(&["1.1.1.1:1", "[::1]:2", "[::1]:3"]);
        assert_eq!(alternating(&mixed), addresses(&["1.1.1.1:1", "[::1]:2", "[::1]:3"]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_after_the_stagger() {
        let (won, took, tried) =
            raced(&[("1.1.1.1:1", Host::Swallows), ("1.1.1.1:2", Host::Swallows), ("1.1.1.1:3", Host::Answers(40))])
                .await;
        assert_eq!((won.unwrap(), took), (3, STAGGER * 2 + Duration::from_millis(40)));
        assert_eq!(tried, [(1, Duration::ZERO), (2, STAGGER), (3, STAGGER * 2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_moves_on_at_once_and_an_early_attempt_may_still_win() {
        let (won, took, _) = raced(&[("1.1.1.1:1", Host::Refuses(10)), ("1.1.1.1:2", Host::Answers(10))]).await;
        assert_eq!((won.unwrap(), took), (2, Duration::from_millis(20)));
        let (won, took, tried) = raced(&[("1.1.1.1:1", Host::Answers(300)), ("1.1.1.1:2", Host::Answers(300))]).await;
        assert_eq!((won.unwrap(), took, tried.len()), (1, Duration::from_millis(300), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_first_error_is_given() {
        let (won, took, _) = raced(&[("1.1.1.1:1", Host::Refuses(10)), ("[::1]:2", Host::Refuses(20))]).await;
        assert_eq!((won.unwrap_err().kind(), took), (io::ErrorKind::ConnectionRefused, Duration::from_millis(30)));
        assert_eq!(raced(&[]).await.0.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_host_whose_first_address_swallows_packets_is_reached() {
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let swallowing = full.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(socket)) = tokio::time::timeout(STAGGER, TcpStream::connect(swallowing)).await {
            queued.push(socket);
        }
        let answering = tokio::net::TcpListener::bind(("127.0.0.3", swallowing.port())).await.unwrap();
        let server = Server::start().await;
        let dialer = Dialer::new(net(), server.resolver());
        let begun = std::time::Instant::now();
        let socket = dialer.connect("two.test.", swallowing.port()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_eq!(socket.peer_addr().unwrap(), answering.local_addr().unwrap());
        let ordered = dialer.ordered("two.test.", swallowing.port()).await.unwrap();
        assert_eq!(ordered, [answering.local_addr().unwrap(), swallowing]);
    }

    #[tokio::test]
    async fn sockets_have_keepalive_on_both_ends() {
        let net = Net { keepalive_idle: Duration::from_secs(77), keepalive_count: 3, ..net() };
        let listener = listener::bind("127.0.0.1:0", &net).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let dialer = Dialer::new(net.clone(), Server::start().await.resolver());
        let (near, (far, _)) = tokio::join!(dialer.connect("127.0.0.1", port), listener::accept(&listener));
        for socket in [&near.unwrap(), &far] {
            let socket = SockRef::from(socket);
            assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), net.keepalive_idle);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), net.keepalive_interval);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), net.keepalive_count);
        }
    }
}
