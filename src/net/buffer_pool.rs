//! Buffers kept by each worker thread: moving bytes costs no allocation and no fresh memory. What was not needed for a
//! while is given up (docs/04, "Data path").

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;

use crate::mux::Payload;
use crate::net::buffered::CHUNK;

/// Buffers whose bytes are still in use elsewhere are passed over, this many at most.
const LOOKED_AT: usize = 8;

static ALL: Shelves = Shelves::new(usize::MAX);

thread_local! {
    static OWN: Shelf = ALL.shelf();
}

/// The buffers that all threads keep, each its own.
#[derive(Clone, Copy, Debug)]
pub struct BufferPool;

/// What one thread keeps. Only giving up buffers comes from another thread, so the lock is free.
struct Shelf(Arc<Mutex<Kept>>);

struct Kept {
    most: usize,
    buffers: Vec<BytesMut>,
    /// Buffers that nobody wanted since the last look.
    spare: usize,
}

/// The shelves of all threads.
struct Shelves {
    all: Mutex<Vec<Weak<Mutex<Kept>>>>,
    /// Buffers that a new one keeps at most.
    most: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BufferPool {
    /// Bytes for a chunk with every header in front of it, or with what encryption adds to it.
    pub const SIZE: usize = Payload::buffer_size(CHUNK) + 1024;

    /// Threads that use the pool from now on keep so many buffers at most.
    pub fn limit(most: usize) {
        ALL.most.store(most, Ordering::Relaxed);
    }

    /// An empty buffer with room for at least [`Self::SIZE`] bytes.
    pub fn take() -> BytesMut {
        OWN.with(Shelf::take).unwrap_or_else(|| BytesMut::with_capacity(Self::SIZE))
    }

    /// Takes back a buffer, also one whose former bytes are still in use: it is free once they are not.
    pub fn give(mut buffer: BytesMut) {
        buffer.clear();
        OWN.with(|shelf| shelf.give(buffer));
    }

    /// Takes back a buffer if it is large enough to be one of these.
    pub fn give_if_large(buffer: BytesMut) {
        if buffer.capacity() >= Self::SIZE {
            Self::give(buffer);
        }
    }

    /// Gives up buffers that were not needed for a time, for ever.
    pub async fn shrink_every(time: Duration) {
        let mut looks = tokio::time::interval(time);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            ALL.shrink();
        }
    }
}

impl Shelf {
    /// The last of the newest buffers that is large enough and not in use.
    fn take(&self) -> Option<BytesMut> {
        let mut kept = lock(&self.0);
        let from = kept.buffers.len().saturating_sub(LOOKED_AT);
        let mut newest = kept.buffers.iter_mut().skip(from);
        let at = newest.rposition(|buffer| buffer.try_reclaim(BufferPool::SIZE))?;
        let buffer = kept.buffers.swap_remove(from + at);
        kept.spare = kept.spare.min(kept.buffers.len());
        Some(buffer)
    }

    fn give(&self, buffer: BytesMut) {
        let mut kept = lock(&self.0);
        if kept.buffers.len() < kept.most {
            kept.buffers.push(buffer);
        }
    }
}

impl Shelves {
    const fn new(most: usize) -> Self {
        Self { all: Mutex::new(Vec::new()), most: AtomicUsize::new(most) }
    }

    fn shelf(&self) -> Shelf {
        let shelf =
            Arc::new(Mutex::new(Kept { most: self.most.load(Ordering::Relaxed), buffers: Vec::new(), spare: 0 }));
        lock(&self.all).push(Arc::downgrade(&shelf));
        Shelf(shelf)
    }

    /// Gives up what nobody wanted since the last time, and forgets threads that are gone.
    fn shrink(&self) {
        lock(&self.all).retain(|shelf| {
            let Some(shelf) = shelf.upgrade() else { return false };
            let mut kept = lock(&shelf);
            let spare = kept.spare;
            let given_up: Vec<BytesMut> = kept.buffers.drain(..spare).collect();
            kept.spare = kept.buffers.len();
            drop(kept);
            drop(given_up);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = 20;

    #[test]
    fn a_buffer_comes_back_once_its_bytes_are_dropped() {
        let mut buffer = BufferPool::take();
        buffer.extend_from_slice(&[7; 100]);
        let place = buffer.as_ptr();
        let bytes = buffer.split_to(100).freeze();
        BufferPool::give(buffer);
        let other = BufferPool::take();
        assert_ne!(other.as_ptr(), place, "in use");
        drop(bytes);
        BufferPool::give(other);
        let found: Vec<_> = (0..2).map(|_| BufferPool::take()).collect();
        assert!(found.iter().any(|buffer| buffer.as_ptr() == place && buffer.capacity() >= BufferPool::SIZE));
    }

    #[test]
    fn what_was_not_needed_since_the_last_look_is_given_up() {
        let shelves = Shelves::new(KEPT);
        let (shelf, kept) = (shelves.shelf(), |shelf: &Shelf| lock(&shelf.0).buffers.len());
        for _ in 0..2 * KEPT {
            shelf.give(BytesMut::with_capacity(BufferPool::SIZE));
        }
        assert_eq!(kept(&shelf), KEPT);
        shelves.shrink();
        assert_eq!(kept(&shelf), KEPT, "they came since the last look");
        let taken: Vec<BytesMut> = (0..10).filter_map(|_| shelf.take()).collect();
        for buffer in taken {
            shelf.give(buffer);
        }
        shelves.shrink();
        assert_eq!(kept(&shelf), 10, "as many as were in use at once");
        shelves.shrink();
        assert_eq!(kept(&shelf), 0);
        drop(shelf);
        shelves.shrink();
        assert!(lock(&shelves.all).is_empty(), "its thread is gone");
    }
}
