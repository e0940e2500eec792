//! Buffers kept by each worker thread: moving bytes costs no allocation and no fresh memory. What was not needed for a
//! while is given up (docs/04, "Data path").

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;

use crate::mux::HEADROOM;
use crate::net::buffered::CHUNK;

/// Room for the largest message with every header in front of it.
pub const SIZE: usize = HEADROOM + CHUNK + 1024;
const KEPT: usize = 64;
/// Buffers whose bytes are still in use elsewhere are passed over, this many at most.
const LOOKED_AT: usize = 8;

static MESSAGES: Shelves<BytesMut> = Shelves::new();
static CHUNKS: Shelves<Box<[u8]>> = Shelves::new();

thread_local! {
    static OWN_MESSAGES: Shelf<BytesMut> = MESSAGES.shelf();
    static OWN_CHUNKS: Shelf<Box<[u8]>> = CHUNKS.shelf();
}

/// What one thread keeps of a kind of buffer. Only giving up buffers comes from another thread, so the lock is free.
struct Shelf<T>(Arc<Mutex<Kept<T>>>);

struct Kept<T> {
    buffers: Vec<T>,
    /// Buffers that nobody wanted since the last look.
    spare: usize,
}

/// The shelves of all threads.
struct Shelves<T>(Mutex<Vec<Weak<Mutex<Kept<T>>>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Shelf<T> {
    /// Takes the last of the newest buffers that will do.
    fn take(&self, will_do: impl FnMut(&mut T) -> bool) -> Option<T> {
        let mut kept = lock(&self.0);
        let from = kept.buffers.len().saturating_sub(LOOKED_AT);
        let at = kept.buffers.iter_mut().skip(from).rposition(will_do)?;
        let buffer = kept.buffers.swap_remove(from + at);
        kept.spare = kept.spare.min(kept.buffers.len());
        Some(buffer)
    }

    fn give(&self, buffer: T) {
        let mut kept = lock(&self.0);
        if kept.buffers.len() < KEPT {
            kept.buffers.push(buffer);
        }
    }
}

impl<T> Shelves<T> {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn shelf(&self) -> Shelf<T> {
        let shelf = Arc::new(Mutex::new(Kept { buffers: Vec::new(), spare: 0 }));
        lock(&self.0).push(Arc::downgrade(&shelf));
        Shelf(shelf)
    }

    /// Gives up what nobody wanted since the last time, and forgets threads that are gone.
    fn shrink(&self) {
        lock(&self.0).retain(|shelf| {
            let Some(shelf) = shelf.upgrade() else { return false };
            let mut kept = lock(&shelf);
            let spare = kept.spare;
            let given_up: Vec<T> = kept.buffers.drain(..spare).collect();
            kept.spare = kept.buffers.len();
            drop(kept);
            drop(given_up);
            true
        });
    }
}

/// An empty buffer with at least [`SIZE`] bytes of room.
pub fn take() -> BytesMut {
    OWN_MESSAGES
        .with(|shelf| shelf.take(|buffer| buffer.try_reclaim(SIZE)))
        .unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Takes back a buffer, also one whose former bytes are still in use: it is free once they are not.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    OWN_MESSAGES.with(|shelf| shelf.give(buffer));
}

/// Takes back a message that is no longer needed, if its buffer is one of these.
pub fn keep(message: BytesMut) {
    if message.capacity() >= SIZE {
        give(message);
    }
}

/// A chunk that was given back, if there is one.
pub(super) fn take_chunk() -> Option<Box<[u8]>> {
    OWN_CHUNKS.with(|shelf| shelf.take(|_| true))
}

/// Keeps a chunk for the next to read or write.
pub(super) fn give_chunk(chunk: Box<[u8]>) {
    OWN_CHUNKS.with(|shelf| shelf.give(chunk));
}

/// Gives up buffers that were not needed for a time, for ever.
pub async fn shrink_every(time: Duration) {
    let mut looks = tokio::time::interval(time);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        MESSAGES.shrink();
        CHUNKS.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_its_bytes_are_dropped() {
        let mut buffer = take();
        buffer.extend_from_slice(&[7; 100]);
        let place = buffer.as_ptr();
        let bytes = buffer.split_to(100).freeze();
        give(buffer);
        let other = take();
        assert_ne!(other.as_ptr(), place, "in use");
        drop(bytes);
        give(other);
        let found: Vec<_> = (0..2).map(|_| take()).collect();
        assert!(found.iter().any(|buffer| buffer.as_ptr() == place && buffer.capacity() >= SIZE));
    }

    #[test]
    fn what_was_not_needed_since_the_last_look_is_given_up() {
        let shelves = Shelves::new();
        let (shelf, kept) = (shelves.shelf(), |shelf: &Shelf<u8>| lock(&shelf.0).buffers.len());
        for buffer in 0..100 {
            shelf.give(buffer);
        }
        assert_eq!(kept(&shelf), KEPT);
        shelves.shrink();
        assert_eq!(kept(&shelf), KEPT, "they came since the last look");
        let taken: Vec<u8> = (0..10).filter_map(|_| shelf.take(|_| true)).collect();
        for buffer in taken {
            shelf.give(buffer);
        }
        shelves.shrink();
        assert_eq!(kept(&shelf), 10, "as many as were in use at once");
        shelves.shrink();
        assert_eq!(kept(&shelf), 0);
        drop(shelf);
        shelves.shrink();
        assert!(lock(&shelves.0).is_empty(), "its thread is gone");
    }
}
