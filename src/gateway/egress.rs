//! Which destinations may be reached (docs/04, "Egress").

mod avoided;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::config::{Egress, Resolve};
use crate::frame::{Host, StreamCode, Target};
use crate::net::resolver::{LookupError, Resolver};
pub(crate) use avoided::Attempt;
use avoided::Avoided;

/// Whether an address belongs to the public internet.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

/// Only global unicast, without the parts that lead to IPv4 (Teredo, 6to4; NAT64 and mapped lie outside) or nowhere.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let global = a & 0xe000 == 0x2000;
    let teredo_or_special = a == 0x2001 && b < 0x0200;
    let documentation = a == 0x2001 && b == 0x0db8 || a == 0x3fff && b < 0x1000;
    let six_to_four = a == 0x2002;
    global && !teredo_or_special && !documentation && !six_to_four
}

/// The destination to hand to the node: checked, and resolved unless the nodes filter themselves.
pub(crate) async fn admit(target: Target, rules: &Egress, lookups: &Lookups) -> Result<Target, StreamCode> {
    if rules.blocked_ports.contains(&target.port()) || target.port() == 0 {
        return Err(StreamCode::Blocked);
    }
    let (ip, port) = match &target {
        Target::Ip(address) => (address.ip(), address.port()),
        Target::Name(name, port) => match Host::parse(name) {
            Ok(Host::Ip(ip)) => (ip, *port),
            Ok(Host::Name(name)) if rules.resolve == Resolve::Gateway => {
                return resolve(name, *port, rules, lookups).await.map(Target::Ip);
            }
            Ok(Host::Name(name)) if rules.allow_private || !is_local(name) => return Ok(target),
            Ok(Host::Name(_)) | Err(_) => return Err(StreamCode::Blocked),
        },
    };
    if rules.allow_private || is_public(ip) { Ok(Target::Ip((ip, port).into())) } else { Err(StreamCode::Blocked) }
}

/// Whether a name means something else on every host: one label, or below `localhost` (RFC 6761).
fn is_local(name: &str) -> bool {
    name.rsplit_once('.').is_none_or(|(_, last)| last.eq_ignore_ascii_case("localhost"))
}

/// A resolver, how many names may be looked up at once, and which addresses are better not used.
#[derive(Clone)]
pub(crate) struct Lookups {
    resolver: Resolver,
    avoided: Arc<Avoided>,
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

impl Lookups {
    pub(crate) fn new(all: usize, resolver: Resolver) -> Self {
        let semaphore = || Arc::new(Semaphore::new(all));
        Self { resolver, avoided: Arc::default(), all: semaphore(), own: semaphore() }
    }

    /// A part of them.
    pub(crate) fn of_a_session(&self, own: usize) -> Self {
        Self { own: Arc::new(Semaphore::new(own)), avoided: Arc::default(), ..self.clone() }
    }

    /// An attempt at an address of a name.
    pub(crate) fn attempt(&self, address: IpAddr, rules: &Egress) -> Attempt {
        Attempt {
            avoided: Arc::clone(&self.avoided),
            address,
            avoid_after: rules.avoid_after,
            avoid_for: rules.avoid_for,
            avoid_max: rules.avoid_max,
        }
    }

    /// A name is whole: no search list of the gateway's host is added to it.
    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let closed = |_| LookupError::Timeout;
        let _own = self.own.acquire().await.map_err(closed)?;
        let _all = self.all.acquire().await.map_err(closed)?;
        self.resolver.lookup_v4_first(&format!("{name}.")).await
    }
}

/// The first address that is allowed, IPv4 before IPv6, and in a family those that failed lately last.
async fn resolve(name: &str, port: u16, rules: &Egress, lookups: &Lookups) -> Result<SocketAddr, StreamCode> {
    let lookup = tokio::time::timeout(rules.resolve_timeout, lookups.look_up(name));
    let found = lookup.await.unwrap_or(Err(LookupError::Timeout)).map_err(|error| match error {
        LookupError::Timeout => StreamCode::Timeout,
        LookupError::NoName | LookupError::NoAddress | LookupError::Failed(_) => StreamCode::Unreachable,
    })?;
    let now = Instant::now();
    let allowed = found.into_iter().filter(|ip| rules.allow_private || is_public(*ip));
    let best = allowed.min_by_key(|ip| (ip.is_ipv6(), lookups.avoided.has(*ip, now)));
    best.map(|ip| (ip, port).into()).ok_or(StreamCode::Blocked)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Source;
    use crate::net::resolver::tests::Server;

    fn lookups() -> Lookups {
        let net = Source::with::<&str, &str>([]).unwrap().section().unwrap();
        Lookups::new(1, Resolver::new(&net, &["127.0.0.1:9".parse().unwrap()]).unwrap())
    }

    fn rules() -> Egress {
        Source::with::<&str, &str>([]).unwrap().section().unwrap()
    }

    #[test]
    fn only_the_public_internet() {
        let private = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
        ];
        for text in private {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "2a00::1",
            "2001:4860::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn every_spelling_of_loopback_and_blocked_ports_are_refused() {
        let rules = rules();
        for name in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0177.0.0.1",
            "0",
        ] {
            let refused = admit(Target::Name(name.into(), 80), &rules, &lookups()).await;
            assert!(matches!(refused, Err(StreamCode::Blocked | StreamCode::Unreachable)), "{name}: {refused:?}");
        }
        let mail = Target::Ip("1.1.1.1:25".parse().unwrap());
        assert_eq!(admit(mail, &rules, &lookups()).await, Err(StreamCode::Blocked));
        let web = Target::Ip("1.1.1.1:443".parse().unwrap());
        assert_eq!(admit(web.clone(), &rules, &lookups()).await, Ok(web));
    }

    #[tokio::test]
    async fn names_go_to_nodes_that_filter_unless_they_are_numbers() {
        let rules = Egress { resolve: Resolve::Node, ..rules() };
        let name = Target::Name("example.com".into(), 443);
        assert_eq!(admit(name.clone(), &rules, &lookups()).await, Ok(name));
        for resolve in [Resolve::Node, Resolve::Gateway] {
            let rules = Egress { resolve, ..rules.clone() };
            for host in [
                "127.1",
                "2130706433",
                "0x7f.0x1",
                "127.0.0.1.",
                "::1",
                "[::1]",
                "::1%lo",
                "::ffff:127.0.0.1",
                "[127.0.0.1]",
                "127.0.0.1\0.example.com",
                "example.com\0",
                "bücher.example",
                "a b",
            ] {
                let refused = admit(Target::Name(host.into(), 443), &rules, &lookups()).await;
                assert_eq!(refused, Err(StreamCode::Blocked), "{host:?}, {resolve:?}");
            }
            let public = admit(Target::Name("[2606:4700::1111]".into(), 443), &rules, &lookups()).await;
            assert_eq!(public, Ok(Target::Ip("[2606:4700::1111]:443".parse().unwrap())), "{resolve:?}");
        }
        for local in ["localhost", "LocalHost.", "a.localhost", "router"] {
            let refused = admit(Target::Name(local.into(), 443), &rules, &lookups()).await;
            assert_eq!(refused, Err(StreamCode::Blocked), "{local}");
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_gives_an_ipv4_address_of_is_reached_by_ipv6() {
        let server = Server::start().await;
        let rules = Egress { allow_private: true, ..rules() };
        let admitted = admit(Target::Name("mute.test".into(), 443), &rules, &Lookups::new(1, server.resolver())).await;
        assert_eq!(admitted, Ok(Target::Ip("[2001:db8::1]:443".parse().unwrap())));
    }

    #[tokio::test]
    async fn an_address_that_gave_nothing_is_tried_after_its_siblings() {
        let server = Server::start().await;
        let lookups = Lookups::new(1, server.resolver());
        let rules = Egress { allow_private: true, ..rules() };
        let admitted = async || admit(Target::Name("two.test".into(), 443), &rules, &lookups).await.unwrap();
        let [first, second] = ["127.0.0.2", "127.0.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        for (address, next) in [(first, second), (second, first)] {
            assert_eq!(admitted().await, Target::Ip((address, 443).into()));
            lookups.attempt(address, &rules).failed(Duration::ZERO, true);
            let expected = if address == first { next } else { first };
            assert_eq!(admitted().await, Target::Ip((expected, 443).into()));
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused() {
        let server = Server::start().await;
        let lookups = Lookups::new(1, server.resolver());
        let name = |name: &str| Target::Name(name.into(), 443);
        assert_eq!(admit(name("rebound.test"), &rules(), &lookups).await, Err(StreamCode::Blocked));
        let public = Ok(Target::Ip("1.1.1.1:443".parse().unwrap()));
        assert_eq!(admit(name("mixed.test"), &rules(), &lookups).await, public);
        assert_eq!(admit(name("none.test"), &rules(), &lookups).await, Err(StreamCode::Unreachable));
        assert_eq!(admit(name("empty.test"), &rules(), &lookups).await, Err(StreamCode::Unreachable));
        let hasty = Egress { resolve_timeout: Duration::from_millis(20), ..rules() };
        assert_eq!(admit(name("silent.test"), &hasty, &lookups).await, Err(StreamCode::Timeout));
    }
}
