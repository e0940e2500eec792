//! Limits for connections, and for those that have not said `hello`: in all, by address and by network (docs/04, "The accept path").

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::rejection::Rejection;
use crate::config::{Behind, Tunnel};
use crate::net::slots::{BusyGuard, Slot, Slots};

/// Of addresses, of networks, and of proxies.
const TABLES: usize = 3;

/// Limits connections that have not been admitted; when there are too many, the one that has been silent longest is evicted.
struct HandshakeLimiter {
    slots: Arc<Slots>,
    counts: [Mutex<HashMap<IpAddr, usize>>; TABLES],
    most: [usize; TABLES],
}

/// The permission to go through the handshake, returned when dropped.
pub(super) struct HandshakePermit {
    slot: Arc<Slot>,
    handshakes: Arc<HandshakeLimiter>,
    holder: Mutex<Holder>,
    hello_said: Option<BusyGuard>,
}

/// Whom a permit is counted for.
enum Holder {
    Client { ip: IpAddr, _counted: [Counted; 2] },
    Proxy { counted: Counted },
}

struct Counted {
    handshakes: Arc<HandshakeLimiter>,
    which: usize,
    address: IpAddr,
}

/// Limits connections and tunnels in all, and those that have not been admitted.
#[derive(Clone)]
pub(super) struct ConnectionLimiter {
    handshakes: Arc<HandshakeLimiter>,
    connections: Arc<Semaphore>,
}

/// The permits of a connection, or of each tunnel where a connection has several.
pub(super) struct Permits {
    pub(super) handshake: HandshakePermit,
    pub(super) connection: OwnedSemaphorePermit,
}

impl ConnectionLimiter {
    pub(super) fn new(limits: &Tunnel, behind: &Behind) -> Self {
        let connections = Arc::new(Semaphore::new(limits.max_connections));
        Self { handshakes: HandshakeLimiter::new(limits, behind), connections }
    }

    /// The permits of a client's connection, or which limit is reached.
    pub(super) fn enter(&self, ip: IpAddr) -> Result<Permits, Rejection> {
        self.admit(|handshakes| handshakes.enter(ip))
    }

    /// The permits of a trusted proxy's connection that has not named its client, or which limit is reached.
    pub(super) fn enter_unnamed(&self, proxy: IpAddr) -> Result<Permits, Rejection> {
        self.admit(|handshakes| handshakes.enter_unnamed(proxy))
    }

    fn admit(
        &self,
        enter: impl FnOnce(&Arc<HandshakeLimiter>) -> Option<HandshakePermit>,
    ) -> Result<Permits, Rejection> {
        let connection = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| Rejection::Connections)?;
        Ok(Permits { handshake: enter(&self.handshakes).ok_or(Rejection::PreHello)?, connection })
    }
}

/// The address that a client is counted by: an IPv6 host has a /64 of them, which counts as one.
pub(super) fn client_key(ip: IpAddr) -> IpAddr {
    prefix(ip, 4)
}

/// So many groups of 16 bits of an IPv6 address; all of an IPv4 address.
fn prefix(ip: IpAddr, groups: usize) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let mut segments = ip.segments();
            segments.iter_mut().skip(groups).for_each(|segment| *segment = 0);
            IpAddr::from(segments)
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl HandshakeLimiter {
    fn new(limits: &Tunnel, behind: &Behind) -> Arc<Self> {
        Arc::new(Self {
            slots: Slots::new(limits.max_pre_hello),
            counts: Default::default(),
            most: [limits.max_pre_hello_per_address, limits.max_pre_hello_per_network, behind.max_unnamed],
        })
    }

    /// A permit for a new connection; `None` if its address or network has too many, or if nobody is silent.
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<HandshakePermit> {
        self.permit(self.client(ip)?)
    }

    /// A permit for a connection of a trusted proxy, which has not named its client; `None` if the proxy has too many of them, or
    /// if nobody is silent.
    fn enter_unnamed(self: &Arc<Self>, proxy: IpAddr) -> Option<HandshakePermit> {
        self.permit(Holder::Proxy { counted: self.count(2, proxy.to_canonical())? })
    }

    fn permit(self: &Arc<Self>, holder: Holder) -> Option<HandshakePermit> {
        let (slot, handshakes) = (self.slots.take()?, Arc::clone(self));
        Some(HandshakePermit { slot, handshakes, holder: Mutex::new(holder), hello_said: None })
    }

    fn client(self: &Arc<Self>, ip: IpAddr) -> Option<Holder> {
        let ip = ip.to_canonical();
        Some(Holder::Client { ip, _counted: [self.count(0, client_key(ip))?, self.count(1, prefix(ip, 3))?] })
    }

    fn count(self: &Arc<Self>, which: usize, address: IpAddr) -> Option<Counted> {
        let mut counts = self.counts.get(which)?.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.entry(address).or_default();
        if *own >= *self.most.get(which)? {
            return None;
        }
        *own += 1;
        Some(Counted { handshakes: Arc::clone(self), which, address })
    }
}

impl HandshakePermit {
    /// Counts the permit for the client whose connection or request it is; whether the client may have it. If not, it stays
    /// counted as it was, as it does for a proxy that names nobody but itself.
    pub(super) fn assign_to(&self, client: IpAddr) -> bool {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let (Holder::Client { ip: known, .. } | Holder::Proxy { counted: Counted { address: known, .. } }) = &*holder;
        if *known == client.to_canonical() {
            return true;
        }
        let Some(named) = self.handshakes.client(client) else { return false };
        *holder = named;
        true
    }

    /// The client has said `hello`: it is not evicted any more.
    pub(super) fn said_hello(&mut self) {
        self.hello_said = Some(self.slot.busy());
    }

    /// Something moves on the connection: others that are silent are evicted before it.
    pub(super) fn touch(&self) {
        drop(self.slot.busy());
    }

    /// Resolves once the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.slot.evicted().await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(counts) = self.handshakes.counts.get(self.which) else { return };
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = counts.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::config::Source;

    fn handshakes(total: usize, each: usize, network: usize) -> Arc<HandshakeLimiter> {
        let defaults = Source::with([("HTTVPS_TUNNEL__PATH", "/x")]).unwrap().section().unwrap();
        let limits = Tunnel {
            max_pre_hello: total,
            max_pre_hello_per_address: each,
            max_pre_hello_per_network: network,
            ..defaults
        };
        let behind = Behind { max_unnamed: 2, ..Source::with([("", ""); 0]).unwrap().section().unwrap() };
        HandshakeLimiter::new(&limits, &behind)
    }

    fn is_evicted(permit: &HandshakePermit) -> bool {
        permit.evicted().now_or_never().is_some()
    }

    #[test]
    fn permits_are_counted_by_address_and_network() {
        let handshakes = handshakes(100, 2, 3);
        let enter = |ip: &str| handshakes.enter(ip.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none(), "two an address");
        let permits = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|ip| enter(ip).unwrap());
        assert!(enter("2001:db8::3").is_none(), "a /64 is one address");
        assert!(enter("2001:db8:0:2::1").is_none(), "three a /48");
        assert!(enter("2001:db8:1::1").is_some());
        drop((first, permits));
        assert!(enter("192.0.2.1").is_some() && enter("2001:db8:0:2::1").is_some());
        assert_eq!(handshakes.counts[1].lock().unwrap().len(), 1, "what is given back leaves nothing");
    }

    #[test]
    fn a_proxys_permits_become_its_clients() {
        let handshakes = handshakes(100, 1, 1);
        let ip = |text: &str| text.parse().unwrap();
        let unnamed = || handshakes.enter_unnamed(ip("::ffff:10.0.0.1"));
        let (first, second) = (unnamed().unwrap(), unnamed().unwrap());
        assert!(unnamed().is_none(), "two of a proxy");
        assert!(handshakes.enter_unnamed(ip("10.0.0.2")).is_some());
        assert!(first.assign_to(ip("10.0.0.1")) && second.assign_to(ip("10.0.0.1")), "not limited as one client");
        assert!(unnamed().is_none(), "and counted as before");
        assert!(first.assign_to(ip("192.0.2.1")) && first.assign_to(ip("::ffff:192.0.2.1")));
        assert!(!second.assign_to(ip("192.0.2.1")) && handshakes.enter(ip("192.0.2.1")).is_none(), "one an address");
        let third = unnamed().unwrap();
        assert!(unnamed().is_none(), "the second is still unnamed");
        assert!(second.assign_to(ip("192.0.2.2")) && !third.assign_to(ip("192.0.2.2")));
        assert!(
            first.assign_to(ip("192.0.2.3")) && third.assign_to(ip("192.0.2.1")),
            "another request, of another client"
        );
        drop((first, second, third));
        assert!(handshakes.counts.iter().all(|counts| counts.lock().unwrap().is_empty()));
    }

    #[test]
    fn active_connections_are_evicted_after_silent_ones() {
        let handshakes = handshakes(3, 10, 10);
        let enter = || handshakes.enter("192.0.2.1".parse().unwrap());
        let (moving, silent, other) = (enter().unwrap(), enter().unwrap(), enter().unwrap());
        moving.touch();
        let fourth = enter().unwrap();
        assert!(is_evicted(&silent) && !is_evicted(&moving));
        drop(silent);
        let _fifth = enter().unwrap();
        assert!(is_evicted(&other) && !is_evicted(&moving));
        drop((other, fourth));
    }

    #[test]
    fn the_longest_silent_is_evicted_and_who_has_said_hello_is_not() {
        let handshakes = handshakes(2, 10, 10);
        let enter = || handshakes.enter("192.0.2.1".parse().unwrap());
        let (mut first, second) = (enter().unwrap(), enter().unwrap());
        first.said_hello();
        let mut third = enter().unwrap();
        assert!(!is_evicted(&first) && is_evicted(&second) && !is_evicted(&third));
        drop(second);
        third.said_hello();
        assert!(enter().is_none(), "nobody is silent");
        drop(first);
        assert!(enter().is_some());
    }
}
