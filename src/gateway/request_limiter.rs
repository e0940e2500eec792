//! How often each caller may ask: requests to the portal, and hellos (docs/04, "Portal" and "Hello").

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);
const SWEEP_AFTER: Duration = Duration::from_secs(1);

/// Requests of each caller; a whole minute's may come at once.
pub(super) struct RequestLimiter<C> {
    /// What one request costs.
    each: Duration,
    table: Mutex<Table<C>>,
}

struct Table<C> {
    /// Callers that it knows at most.
    most: usize,
    /// When a caller will have paid for its requests.
    paid_at: HashMap<C, Instant>,
    swept_at: Option<Instant>,
}

impl<C: Copy + Eq + Hash> RequestLimiter<C> {
    /// So many requests a minute of each of so many callers at most.
    pub(super) fn new(per_minute: u32, most: usize) -> Self {
        let table = Table { most, paid_at: HashMap::new(), swept_at: None };
        Self { each: MINUTE / per_minute.max(1), table: Mutex::new(table) }
    }

    /// Whether a caller may have another request.
    pub(super) fn allow(&self, caller: C, now: Instant) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let paid_at = table.paid_at.get(&caller).copied().unwrap_or(now).max(now) + self.each;
        if paid_at > now + MINUTE || !table.has_room(&caller, now) {
            return false;
        }
        table.paid_at.insert(caller, paid_at);
        true
    }
}

impl<C: Eq + Hash> Table<C> {
    /// Whether a caller is known or may become so; those that have paid are forgotten first.
    fn has_room(&mut self, caller: &C, now: Instant) -> bool {
        if self.paid_at.len() < self.most || self.paid_at.contains_key(caller) {
            return true;
        }
        if self.swept_at.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_AFTER) {
            return false;
        }
        self.swept_at = Some(now);
        self.paid_at.retain(|_, paid_at| *paid_at > now);
        self.paid_at.len() < self.most
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::gateway::connection_limiter::client_key;

    const MOST: usize = 1000;

    #[test]
    fn rates_are_of_an_address_and_come_back() {
        let limiter = RequestLimiter::new(20, MOST);
        let now = Instant::now();
        let allow = |ip: &str, at: Instant| limiter.allow(client_key(ip.parse().unwrap()), at);
        assert_eq!((0..30).filter(|_| allow("192.0.2.1", now)).count(), 20);
        assert!(!allow("::ffff:192.0.2.1", now) && allow("192.0.2.2", now));
        assert!(!allow("192.0.2.1", now + Duration::from_millis(2900)));
        assert!(allow("192.0.2.1", now + Duration::from_secs(3)));
        assert_eq!((0..30).filter(|_| allow("2001:db8::1", now)).count(), 20);
        assert!(!allow("2001:db8::2", now), "a /64 is one address");
        assert_eq!((0..30).filter(|_| allow("192.0.2.1", now + MINUTE * 2)).count(), 20);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_paid() {
        let limiter = RequestLimiter::new(60, MOST);
        let now = Instant::now();
        let ip = |number: usize| IpAddr::from(Ipv4Addr::from(u32::try_from(number).unwrap()));
        assert!((0..MOST).all(|number| limiter.allow(ip(number), now)));
        assert!(!limiter.allow(ip(MOST), now));
        assert!(limiter.allow(ip(1), now), "one that is known");
        let later = now + Duration::from_millis(1500);
        assert!(limiter.allow(ip(MOST), later));
        assert_eq!(limiter.table.lock().unwrap().paid_at.len(), 2, "the one that still owes, and the new one");
    }
}
