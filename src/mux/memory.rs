use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What sessions may hold together: growth of windows, and bytes that wait for the other side. An account's budget is a
/// part of its process's (docs/04, "Flow control").
#[derive(Debug)]
pub struct MemoryBudget {
    growth: AtomicU64,
    held: AtomicU64,
    size: u64,
    parent: Option<Arc<Self>>,
}

impl MemoryBudget {
    /// A process's budget of so many bytes.
    pub fn new(size: u64) -> Self {
        Self { growth: AtomicU64::new(0), held: AtomicU64::new(0), size, parent: None }
    }

    /// An account's budget: what it holds counts for the whole, too.
    pub fn child(parent: &Arc<Self>, size: u64) -> Self {
        Self { parent: Some(Arc::clone(parent)), ..Self::new(size) }
    }

    /// Takes growth: no more than wanted and no more than half of what is left, so that later ones find some, too.
    pub(super) fn take(&self, wanted: u64) -> u64 {
        let mut taken = 0;
        let take = |growth: u64| {
            taken = wanted.min(self.size.saturating_sub(growth).div_euclid(2));
            growth.checked_add(taken)
        };
        if self.growth.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return 0;
        }
        let Some(parent) = &self.parent else { return taken };
        let granted = parent.take(taken);
        self.growth.fetch_sub(taken.saturating_sub(granted), Ordering::Relaxed);
        granted
    }

    pub(super) fn give_back(&self, growth: u64) {
        self.growth.fetch_sub(growth, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.give_back(growth);
        }
    }

    pub(super) fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.hold(bytes);
        }
    }

    pub(super) fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.release(bytes);
        }
    }

    /// Takes over what a session has of the whole already.
    pub(super) fn adopt(&self, growth: u64, held: u64) {
        self.growth.fetch_add(growth, Ordering::Relaxed);
        self.held.fetch_add(held, Ordering::Relaxed);
    }

    /// Bytes that wait for the other side.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether as much waits as this budget, or the whole, is meant for.
    pub fn is_full(&self) -> bool {
        self.held() >= self.size || self.parent.as_ref().is_some_and(|parent| parent.is_full())
    }

    /// Whether so many more may wait.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.held().saturating_add(bytes) <= self.size
            && self.parent.as_ref().is_none_or(|parent| parent.has_room(bytes))
    }

    /// By how much the bytes that wait exceed three quarters of this budget, once they reach seven eighths.
    pub fn excess(&self) -> u64 {
        let held = self.held();
        let part = |eighths: u64| self.size.div_euclid(8).saturating_mul(eighths);
        if held < part(7) { 0 } else { held.saturating_sub(part(6)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_left() {
        let budget = MemoryBudget::new(100);
        assert_eq!([budget.take(10), budget.take(1000), budget.take(1000)], [10, 45, 22]);
        budget.give_back(77);
        assert_eq!(budget.take(1000), 50);
        budget.hold(99);
        assert!(!budget.is_full());
        budget.hold(1);
        assert!(budget.is_full());
        budget.release(100);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_part_counts_for_the_whole_and_cannot_take_more_than_it_has() {
        let whole = Arc::new(MemoryBudget::new(100));
        let parts = [MemoryBudget::child(&whole, 40), MemoryBudget::child(&whole, 400)];
        assert_eq!(parts[0].take(1000), 20, "half of the part");
        assert_eq!(parts[1].take(1000), 40, "half of what is left of the whole");
        assert_eq!(parts[1].take(1000), 20, "what the whole did not grant was not taken of the part");
        parts[1].give_back(60);
        assert_eq!(whole.take(1000), 40);
        parts[0].hold(40);
        assert_eq!((parts[0].is_full(), parts[1].is_full(), whole.held()), (true, false, 40));
        parts[1].hold(60);
        assert!(parts[1].is_full(), "the whole is");
        parts[0].release(40);
        parts[1].release(60);
        whole.hold(7);
        parts[0].adopt(0, 7);
        parts[0].release(7);
        assert_eq!((parts[0].held(), whole.held()), (0, 0));
    }

    #[test]
    fn excess_begins_at_seven_eighths_and_ends_at_three_quarters() {
        let budget = MemoryBudget::new(800);
        budget.hold(699);
        assert_eq!(budget.excess(), 0);
        budget.hold(1);
        assert_eq!(budget.excess(), 100);
    }
}
