//! Slots for the connections of a listener: idle connections are evicted for new ones (docs/02, "Connections").

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Slots for so many connections.
#[derive(Debug)]
pub struct Slots {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    count: usize,
    next: u64,
    /// Idle connections: those without any request yet come first, then the longest idle.
    idle: BTreeMap<(bool, u64), CancellationToken>,
}

/// A connection's slot, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    state: Mutex<State>,
    eviction: CancellationToken,
}

#[derive(Debug)]
struct State {
    /// Requests that are not answered whole.
    open: usize,
    served: bool,
    position: Option<(bool, u64)>,
}

/// A request that is being answered.
#[derive(Debug)]
pub struct BusyGuard(Arc<Slot>);

impl Slots {
    /// Room for `most` connections.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a new connection; an idle one is evicted if none is left. `None` if all are busy.
    pub fn take(self: &Arc<Self>) -> Option<Arc<Slot>> {
        let mut held = self.held();
        if held.count >= self.most {
            let (_, eviction) = held.idle.pop_first()?;
            eviction.cancel();
        }
        held.count += 1;
        let eviction = CancellationToken::new();
        let position = held.add(false, &eviction);
        drop(held);
        let state = Mutex::new(State { open: 0, served: false, position: Some(position) });
        Some(Arc::new(Slot { slots: Arc::clone(self), state, eviction }))
    }
}

impl Held {
    fn add(&mut self, served: bool, eviction: &CancellationToken) -> (bool, u64) {
        let position = (served, self.next);
        self.next = self.next.wrapping_add(1);
        self.idle.insert(position, eviction.clone());
        position
    }
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a request until the result is dropped.
    pub fn busy(self: &Arc<Self>) -> BusyGuard {
        let mut state = self.state();
        state.open += 1;
        state.served = true;
        if let Some(position) = state.position.take() {
            self.slots.held().idle.remove(&position);
        }
        drop(state);
        BusyGuard(Arc::clone(self))
    }

    /// Whether a request has come.
    pub fn has_served(&self) -> bool {
        self.state().served
    }

    /// Resolves once the connection is evicted.
    pub async fn evicted(&self) {
        self.eviction.cancelled().await;
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open = state.open.saturating_sub(1);
        if state.open == 0 && !self.0.eviction.is_cancelled() {
            state.position = Some(self.0.slots.held().add(true, &self.0.eviction));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let position = self.state().position.take();
        let mut held = self.slots.held();
        held.count = held.count.saturating_sub(1);
        if let Some(position) = position {
            held.idle.remove(&position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_ones_make_room_and_busy_ones_stay() {
        let slots = Slots::new(3);
        let [served, working, silent] = [(); 3].map(|()| slots.take().unwrap());
        drop(served.busy());
        let request = working.busy();
        let fourth = slots.take().unwrap();
        assert!(silent.eviction.is_cancelled(), "the one that never asked goes first");
        drop(silent);
        let fifth = slots.take().unwrap();
        assert!(fourth.eviction.is_cancelled() && !served.eviction.is_cancelled());
        drop(fourth);
        let busy = fifth.busy();
        let sixth = slots.take().unwrap();
        assert!(served.eviction.is_cancelled() && !working.eviction.is_cancelled());
        drop(served);
        let last = sixth.busy();
        assert!(slots.take().is_none(), "all are busy");
        drop((request, busy, last));
        assert!(slots.take().is_some());
    }
}
