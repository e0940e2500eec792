//! Addresses of destinations that gave nothing lately (docs/04, "Names and lines").

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A session's addresses, each until when its siblings are preferred.
#[derive(Debug, Default)]
pub(super) struct Avoided(Mutex<HashMap<IpAddr, Instant>>);

impl Avoided {
    pub(super) fn has(&self, address: IpAddr, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&address).is_some_and(|until| now < *until)
    }

    /// Remembers an address, if there are fewer than so many.
    fn add(&self, address: IpAddr, now: Instant, until: Instant, most: usize) {
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= most {
            addresses.retain(|_, until| now < *until);
        }
        if addresses.len() < most {
            addresses.insert(address, until);
        }
    }
}

/// A stream's attempt at an address that a name was resolved to.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(super) avoided: Arc<Avoided>,
    pub(super) address: IpAddr,
    pub(super) avoid_after: Duration,
    pub(super) avoid_for: Duration,
    pub(super) avoid_max: usize,
}

impl Attempt {
    /// The stream is over without a byte, so long after something was sent; by the destination's will, or not.
    pub(crate) fn failed(&self, waited: Duration, was_ended: bool) {
        if !was_ended && waited < self.avoid_after {
            return;
        }
        let now = Instant::now();
        self.avoided.add(self.address, now, now + self.avoid_for, self.avoid_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8;

    #[test]
    fn addresses_are_avoided_for_a_time_and_not_without_bound() {
        let (avoided, now, second) = (Avoided::default(), Instant::now(), Duration::from_secs(1));
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        for number in 0..MOST {
            avoided.add(address(number), now, now + second, MOST);
        }
        assert!(avoided.has(address(0), now) && !avoided.has(address(0), now + second));
        avoided.add(address(MOST), now, now + second, MOST);
        assert!(!avoided.has(address(MOST), now), "it is full");
        avoided.add(address(MOST), now + second, now + second * 2, MOST);
        assert!(avoided.has(address(MOST), now + second), "what is over makes room");
    }

    #[test]
    fn a_stream_that_was_given_up_at_once_says_nothing_of_its_destination() {
        let (avoid_after, avoid_for) = (Duration::from_secs(1), Duration::from_mins(1));
        let avoided = Arc::new(Avoided::default());
        let address = IpAddr::from([192, 0, 2, 1]);
        let attempt = Attempt { avoided: Arc::clone(&avoided), address, avoid_after, avoid_for, avoid_max: MOST };
        attempt.failed(avoid_after / 2, false);
        assert!(!avoided.has(address, Instant::now()));
        attempt.failed(avoid_after, false);
        assert!(avoided.has(address, Instant::now()));
    }
}
