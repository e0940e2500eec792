//! Buffers of one size, kept by each worker thread: moving bytes costs no allocation and no fresh memory.

use std::cell::RefCell;

use bytes::BytesMut;

use crate::mux::HEADROOM;
use crate::net::buffered::CHUNK;

/// Room for the largest message with every header in front of it.
pub const SIZE: usize = HEADROOM + CHUNK + 1024;
const POOLED: usize = 64;
/// Buffers whose bytes are still in use elsewhere are passed over, this many at most.
const LOOKED_AT: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with at least [`SIZE`] bytes of room.
pub fn take() -> BytesMut {
    POOL.with_borrow_mut(|pool| {
        let from = pool.len().saturating_sub(LOOKED_AT);
        let free = pool.iter_mut().skip(from).rposition(|buffer| buffer.try_reclaim(SIZE));
        free.map(|at| pool.swap_remove(from + at))
    })
    .unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Takes back a buffer, also one whose former bytes are still in use: it is free once they are not.
pub fn give(mut buffer: BytesMut) {
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < POOLED {
            pool.push(buffer);
        }
    });
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
}
