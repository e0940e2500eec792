//! How many connections may be under way to a session: in all, for an address, and for a network (docs/04, "The accept path").

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{Behind, Tunnel};
use crate::net::seats::{Busy, Seat, Seats};

/// Of addresses, of networks, and of proxies.
const TABLES: usize = 3;

/// Counts connections that have not been admitted; when there are too many, the one that has been silent longest makes room.
struct Greeting {
    seats: Arc<Seats>,
    counts: [Mutex<HashMap<IpAddr, usize>>; TABLES],
    most: [usize; TABLES],
}

/// A place among them, given back when dropped.
pub(super) struct Place {
    seat: Arc<Seat>,
    greeting: Arc<Greeting>,
    holder: Mutex<Holder>,
    spoken: Option<Busy>,
}

/// Whom a place is counted for.
enum Holder {
    Client { ip: IpAddr, _counted: [Counted; 2] },
    Proxy { counted: Counted },
}

struct Counted {
    greeting: Arc<Greeting>,
    which: usize,
    address: IpAddr,
}

/// Who may come in: so many connections and tunnels in all, and so many that have not been admitted.
#[derive(Clone)]
pub(super) struct Entrance {
    greeting: Arc<Greeting>,
    all: Arc<Semaphore>,
}

/// What a connection holds, or each tunnel of one with several.
pub(super) struct Admittance {
    pub(super) place: Place,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Entrance {
    pub(super) fn new(limits: &Tunnel, behind: &Behind) -> Self {
        let all = Arc::new(Semaphore::new(limits.max_connections));
        Self { greeting: Greeting::new(limits, behind), all }
    }

    /// Lets one in, or says which limit is reached.
    pub(super) fn enter(&self, ip: IpAddr) -> Result<Admittance, &'static str> {
        self.admit(|greeting| greeting.enter(ip))
    }

    /// Lets in a connection of a trusted proxy, which has not named its client, or says which limit is reached.
    pub(super) fn enter_unnamed(&self, proxy: IpAddr) -> Result<Admittance, &'static str> {
        self.admit(|greeting| greeting.enter_unnamed(proxy))
    }

    fn admit(&self, enter: impl FnOnce(&Arc<Greeting>) -> Option<Place>) -> Result<Admittance, &'static str> {
        let permit = Arc::clone(&self.all).try_acquire_owned().map_err(|_| "connections")?;
        Ok(Admittance { place: enter(&self.greeting).ok_or("pre_hello")?, permit })
    }
}

/// IPv6 hosts have a /64 of addresses; it counts as one.
pub(super) fn counted(ip: IpAddr) -> IpAddr {
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

impl Greeting {
    fn new(limits: &Tunnel, behind: &Behind) -> Arc<Self> {
        Arc::new(Self {
            seats: Seats::new(limits.max_pre_hello),
            counts: Default::default(),
            most: [limits.max_pre_hello_per_address, limits.max_pre_hello_per_network, behind.max_unnamed],
        })
    }

    /// A place for a new connection; `None` if its address or network has too many, or if nobody is silent.
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        self.place(self.client(ip)?)
    }

    /// A place for a connection of a trusted proxy, which has not named its client; `None` if the proxy has too many of them, or
    /// if nobody is silent.
    fn enter_unnamed(self: &Arc<Self>, proxy: IpAddr) -> Option<Place> {
        self.place(Holder::Proxy { counted: self.count(2, proxy.to_canonical())? })
    }

    fn place(self: &Arc<Self>, holder: Holder) -> Option<Place> {
        let (seat, greeting) = (self.seats.take()?, Arc::clone(self));
        Some(Place { seat, greeting, holder: Mutex::new(holder), spoken: None })
    }

    fn client(self: &Arc<Self>, ip: IpAddr) -> Option<Holder> {
        let ip = ip.to_canonical();
        Some(Holder::Client { ip, _counted: [self.count(0, counted(ip))?, self.count(1, prefix(ip, 3))?] })
    }

    fn count(self: &Arc<Self>, which: usize, address: IpAddr) -> Option<Counted> {
        let mut counts = self.counts.get(which)?.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.entry(address).or_default();
        if *own >= *self.most.get(which)? {
            return None;
        }
        *own += 1;
        Some(Counted { greeting: Arc::clone(self), which, address })
    }
}

impl Place {
    /// Counts the place for the client whose connection or request it is; whether the client may have it. If not, it stays
    /// counted as it was, as it does for a proxy that names nobody but itself.
    pub(super) fn name(&self, client: IpAddr) -> bool {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let (Holder::Client { ip: known, .. } | Holder::Proxy { counted: Counted { address: known, .. } }) = &*holder;
        if *known == client.to_canonical() {
            return true;
        }
        let Some(named) = self.greeting.client(client) else { return false };
        *holder = named;
        true
    }

    /// The client has said `hello`: it makes room for nobody any more.
    pub(super) fn spoke(&mut self) {
        self.spoken = Some(self.seat.busy());
    }

    /// Something moves on the connection: others that are silent make room before it.
    pub(super) fn moved(&self) {
        drop(self.seat.busy());
    }

    /// Resolves once the connection has to make room.
    pub(super) async fn crowded_out(&self) {
        self.seat.leaving().await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some(counts) = self.greeting.counts.get(self.which) else { return };
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

    fn greeting(total: usize, each: usize, network: usize) -> Arc<Greeting> {
        let defaults = Source::with([("HTTVPS_TUNNEL__PATH", "/x")]).unwrap().section().unwrap();
        let limits = Tunnel {
            max_pre_hello: total,
            max_pre_hello_per_address: each,
            max_pre_hello_per_network: network,
            ..defaults
        };
        let behind = Behind { max_unnamed: 2, ..Source::with([("", ""); 0]).unwrap().section().unwrap() };
        Greeting::new(&limits, &behind)
    }

    fn is_out(place: &Place) -> bool {
        place.crowded_out().now_or_never().is_some()
    }

    #[test]
    fn places_are_counted_by_address_and_network() {
        let greeting = greeting(100, 2, 3);
        let enter = |ip: &str| greeting.enter(ip.parse().unwrap());
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none(), "two an address");
        let places = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|ip| enter(ip).unwrap());
        assert!(enter("2001:db8::3").is_none(), "a /64 is one address");
        assert!(enter("2001:db8:0:2::1").is_none(), "three a /48");
        assert!(enter("2001:db8:1::1").is_some());
        drop((first, places));
        assert!(enter("192.0.2.1").is_some() && enter("2001:db8:0:2::1").is_some());
        assert_eq!(greeting.counts[1].lock().unwrap().len(), 1, "what is given back leaves nothing");
    }

    #[test]
    fn a_proxys_places_become_its_clients() {
        let greeting = greeting(100, 1, 1);
        let ip = |text: &str| text.parse().unwrap();
        let unnamed = || greeting.enter_unnamed(ip("::ffff:10.0.0.1"));
        let (first, second) = (unnamed().unwrap(), unnamed().unwrap());
        assert!(unnamed().is_none(), "two of a proxy");
        assert!(greeting.enter_unnamed(ip("10.0.0.2")).is_some());
        assert!(first.name(ip("10.0.0.1")) && second.name(ip("10.0.0.1")), "not limited as one client");
        assert!(unnamed().is_none(), "and counted as before");
        assert!(first.name(ip("192.0.2.1")) && first.name(ip("::ffff:192.0.2.1")));
        assert!(!second.name(ip("192.0.2.1")) && greeting.enter(ip("192.0.2.1")).is_none(), "one an address");
        let third = unnamed().unwrap();
        assert!(unnamed().is_none(), "the second is still unnamed");
        assert!(second.name(ip("192.0.2.2")) && !third.name(ip("192.0.2.2")));
        assert!(first.name(ip("192.0.2.3")) && third.name(ip("192.0.2.1")), "another request, of another client");
        drop((first, second, third));
        assert!(greeting.counts.iter().all(|counts| counts.lock().unwrap().is_empty()));
    }

    #[test]
    fn who_moves_makes_room_behind_the_silent() {
        let greeting = greeting(3, 10, 10);
        let enter = || greeting.enter("192.0.2.1".parse().unwrap());
        let (moving, silent, other) = (enter().unwrap(), enter().unwrap(), enter().unwrap());
        moving.moved();
        let fourth = enter().unwrap();
        assert!(is_out(&silent) && !is_out(&moving));
        drop(silent);
        let _fifth = enter().unwrap();
        assert!(is_out(&other) && !is_out(&moving));
        drop((other, fourth));
    }

    #[test]
    fn the_longest_silent_makes_room_and_who_has_spoken_does_not() {
        let greeting = greeting(2, 10, 10);
        let enter = || greeting.enter("192.0.2.1".parse().unwrap());
        let (mut first, second) = (enter().unwrap(), enter().unwrap());
        first.spoke();
        let mut third = enter().unwrap();
        assert!(!is_out(&first) && is_out(&second) && !is_out(&third));
        drop(second);
        third.spoke();
        assert!(enter().is_none(), "nobody is silent");
        drop(first);
        assert!(enter().is_some());
    }
}
