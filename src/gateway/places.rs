//! How many connections may be under way to a session, in all and for one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts connections that have not been admitted.
#[derive(Default)]
pub(super) struct Greeting {
    waiting: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// A place among them, given back when dropped.
pub(super) struct Place {
    greeting: Arc<Greeting>,
    address: IpAddr,
}

/// IPv6 hosts have a /64 of addresses; it counts as one.
pub(super) fn counted(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Greeting {
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr, total: usize, each: usize) -> Option<Place> {
        let address = counted(ip);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *waiting;
        if *all >= total {
            return None;
        }
        let own = by_address.entry(address).or_default();
        if *own >= each {
            return None;
        }
        *own += 1;
        *all += 1;
        Some(Place { greeting: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.greeting.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_address) = &mut *waiting;
        *all = all.saturating_sub(1);
        if let Some(own) = by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_in_all() {
        let greeting = Arc::new(Greeting::default());
        let enter = |ip: &str| greeting.enter(ip.parse().unwrap(), 3, 2);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none(), "two an address");
        let _third = enter("2001:db8::1").unwrap();
        assert!(enter("2001:db8:1::1").is_none(), "three in all");
        drop(first);
        let _fourth = enter("2001:db8::2").unwrap();
        assert!(enter("2001:db8::3").is_none(), "a /64 is one address");
        assert_eq!(greeting.waiting.lock().unwrap().1.len(), 2);
    }
}
