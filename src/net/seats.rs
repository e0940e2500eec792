//! Who may stay connected to a listener: those that are idle make room for those that come (docs/02, "Connections").

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Places for so many connections.
#[derive(Debug)]
pub struct Seats {
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

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    state: Mutex<State>,
    leave: CancellationToken,
}

#[derive(Debug)]
struct State {
    /// Requests that are not answered whole.
    open: usize,
    served: bool,
    place: Option<(bool, u64)>,
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Busy(Arc<Seat>);

impl Seats {
    /// Room for `most` connections.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; an idle one is told to leave if there is none left. `None` if all are busy.
    pub fn take(self: &Arc<Self>) -> Option<Arc<Seat>> {
        let mut held = self.held();
        if held.count >= self.most {
            let (_, leave) = held.idle.pop_first()?;
            leave.cancel();
        }
        held.count += 1;
        let leave = CancellationToken::new();
        let place = held.add(false, &leave);
        drop(held);
        let state = Mutex::new(State { open: 0, served: false, place: Some(place) });
        Some(Arc::new(Seat { seats: Arc::clone(self), state, leave }))
    }
}

impl Held {
    fn add(&mut self, served: bool, leave: &CancellationToken) -> (bool, u64) {
        let place = (served, self.next);
        self.next = self.next.wrapping_add(1);
        self.idle.insert(place, leave.clone());
        place
    }
}

impl Seat {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a request until the result is dropped.
    pub fn busy(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        state.open += 1;
        state.served = true;
        if let Some(place) = state.place.take() {
            self.seats.held().idle.remove(&place);
        }
        drop(state);
        Busy(Arc::clone(self))
    }

    /// Whether a request has come.
    pub fn has_served(&self) -> bool {
        self.state().served
    }

    /// Resolves once the connection has to make room.
    pub async fn leaving(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.open = state.open.saturating_sub(1);
        if state.open == 0 && !self.0.leave.is_cancelled() {
            state.place = Some(self.0.seats.held().add(true, &self.0.leave));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let place = self.state().place.take();
        let mut held = self.seats.held();
        held.count = held.count.saturating_sub(1);
        if let Some(place) = place {
            held.idle.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_ones_make_room_and_busy_ones_stay() {
        let seats = Seats::new(3);
        let [served, working, silent] = [(); 3].map(|()| seats.take().unwrap());
        drop(served.busy());
        let request = working.busy();
        let fourth = seats.take().unwrap();
        assert!(silent.leave.is_cancelled(), "the one that never asked goes first");
        drop(silent);
        let fifth = seats.take().unwrap();
        assert!(fourth.leave.is_cancelled() && !served.leave.is_cancelled());
        drop(fourth);
        let busy = fifth.busy();
        let sixth = seats.take().unwrap();
        assert!(served.leave.is_cancelled() && !working.leave.is_cancelled());
        drop(served);
        let last = sixth.busy();
        assert!(seats.take().is_none(), "all are busy");
        drop((request, busy, last));
        assert!(seats.take().is_some());
    }
}
