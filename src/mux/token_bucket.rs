use std::time::{Duration, Instant};

const NANOS: u128 = 1_000_000_000;

/// A token bucket that holds one second's worth.
#[derive(Debug)]
pub struct TokenBucket {
    per_second: u32,
    left: i64,
    refilled: Instant,
}

impl TokenBucket {
    /// Full, with so many tokens a second.
    pub fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, left: per_second.into(), refilled: now }
    }

    /// Another rate from now on; what has gathered is kept as far as the new one holds it.
    pub(super) fn set_rate(&mut self, per_second: u32, now: Instant) {
        self.refill(now);
        self.per_second = per_second;
        self.left = self.left.min(per_second.into());
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.left <= 0 {
            self.refill(now);
        }
        let had = self.left > 0;
        if had {
            self.left = self.left.saturating_sub(1);
        }
        had
    }

    /// Takes one token, on credit if there is none: the debt delays the next ones.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        if self.left <= 0 {
            self.refill(now);
        }
        self.left = self.left.saturating_sub(1);
        self.left >= 0
    }

    /// When there will be a token again, if there is none.
    pub(super) fn next(&self) -> Option<Instant> {
        let missing = u128::from(self.left.saturating_sub(1).unsigned_abs());
        let wait = NANOS.saturating_mul(missing).checked_div(u128::from(self.per_second)).unwrap_or(NANOS);
        (self.left <= 0)
            .then(|| self.refilled.checked_add(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))))
            .flatten()
    }

    pub(super) fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_nanos();
        let tokens = passed.saturating_mul(u128::from(self.per_second)).checked_div(NANOS).unwrap_or(0);
        if tokens > 0 {
            let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
            self.left = self.left.saturating_add(tokens).min(self.per_second.into());
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_refills_it() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(3, start);
        assert!((0..3).all(|_| bucket.take(start)));
        assert!(!bucket.take(start));
        let next = bucket.next().unwrap();
        assert!(next > start && next <= start + Duration::from_millis(334));
        assert!(bucket.take(start + Duration::from_millis(334)));
        assert!(!bucket.take(start + Duration::from_millis(335)));
        assert!((0..3).all(|_| bucket.take(start + Duration::from_secs(60))));
        assert!(!bucket.take(start + Duration::from_secs(60)));
    }
}
