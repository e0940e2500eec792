use std::sync::atomic::{AtomicU64, Ordering};

/// What all sessions of a process may hold together: growth of windows, and bytes that wait for the other side.
#[derive(Debug)]
pub struct Pool {
    growth: AtomicU64,
    held: AtomicU64,
    size: u64,
}

impl Pool {
    /// A pool of so many bytes.
    pub fn new(size: u64) -> Self {
        Self { growth: AtomicU64::new(size), held: AtomicU64::new(0), size }
    }

    /// Takes growth: no more than wanted and no more than half of what is left, so that later ones find some, too.
    pub(super) fn take(&self, wanted: u64) -> u64 {
        let mut taken = 0;
        let take = |left: u64| {
            taken = wanted.min(left.div_euclid(2));
            left.checked_sub(taken)
        };
        if self.growth.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return 0;
        }
        taken
    }

    pub(super) fn give_back(&self, growth: u64) {
        self.growth.fetch_add(growth, Ordering::Relaxed);
    }

    pub(super) fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that wait for the other side.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether as much waits as the pool is meant for.
    pub fn is_full(&self) -> bool {
        self.held() >= self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_left() {
        let pool = Pool::new(100);
        assert_eq!([pool.take(10), pool.take(1000), pool.take(1000)], [10, 45, 22]);
        pool.give_back(77);
        assert_eq!(pool.take(1000), 50);
        pool.hold(99);
        assert!(!pool.is_full());
        pool.hold(1);
        assert!(pool.is_full());
        pool.release(100);
        assert_eq!(pool.held(), 0);
    }
}
