use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::stream::Outgoing;
use super::{Limits, MemoryBudget};

/// Bytes of a stream that were sent and that the other side has not taken: they are sent again if the connection is lost.
#[derive(Debug, Default)]
pub(super) struct RetransmitBuffer {
    pieces: VecDeque<Bytes>,
    /// The offset of the first of them.
    from: u64,
    len: u64,
    /// Bytes in front of what is queued that were kept, and are again once they are sent again: they count meanwhile.
    again: u64,
}

impl RetransmitBuffer {
    fn push(&mut self, piece: Bytes) {
        self.len = self.len.saturating_add(piece.len() as u64);
        self.pieces.push_back(piece);
    }

    /// Lets go of what lies before an offset, whole pieces into `free`; gives how much it was.
    fn release(&mut self, to: u64, free: &mut Vec<Bytes>) -> u64 {
        let released = to.saturating_sub(self.from).min(self.len);
        let mut left = released;
        while let Some(piece) = self.pieces.front_mut() {
            let len = piece.len() as u64;
            if left < len {
                piece.advance(usize::try_from(left).unwrap_or(0));
                break;
            }
            left = left.saturating_sub(len);
            free.extend(self.pieces.pop_front());
        }
        self.from = self.from.saturating_add(released);
        self.len = self.len.saturating_sub(released);
        released
    }

    /// What lies from an offset on, if all of it is there, and how much before it was let go.
    fn since(&mut self, offset: u64, free: &mut Vec<Bytes>) -> Option<(VecDeque<Bytes>, u64)> {
        if offset < self.from || offset > self.from.saturating_add(self.len) {
            return None;
        }
        let released = self.release(offset, free);
        self.again = self.again.saturating_add(std::mem::take(&mut self.len));
        Some((std::mem::take(&mut self.pieces), released))
    }
}

/// What a session keeps in all.
#[derive(Debug)]
pub(super) struct Retransmission {
    /// Whether anything is kept.
    pub(super) is_on: bool,
    budget: Arc<MemoryBudget>,
    /// Buffers that are not needed any more.
    free: Vec<Bytes>,
}

impl Retransmission {
    pub(super) fn new(limits: &Limits) -> Self {
        let budget = Arc::new(MemoryBudget::child(&limits.kept, limits.kept_per_session));
        Self { is_on: false, budget, free: Vec::new() }
    }

    /// Keeps a piece that is being sent, unless too much is kept: then the stream ends with its connection.
    pub(super) fn keep(&mut self, out: &mut Outgoing, piece: Bytes) {
        let Some(kept) = &mut out.kept else { return };
        let counted = kept.again.min(piece.len() as u64);
        let more = (piece.len() as u64).saturating_sub(counted);
        if !self.budget.has_room(more) {
            return self.give_up(out);
        }
        self.budget.hold(more);
        kept.again = kept.again.saturating_sub(counted);
        kept.push(piece);
    }

    /// Keeps nothing of a direction any more.
    pub(super) fn give_up(&mut self, out: &mut Outgoing) {
        if let Some(kept) = out.kept.take() {
            self.budget.release(kept.len.saturating_add(kept.again));
        }
    }

    /// The other side has so much of a direction; its end counts as a byte.
    pub(super) fn taken(&mut self, out: &mut Outgoing, consumed: u64) {
        let sent = out.sent();
        if let Some(kept) = &mut out.kept {
            self.budget.release(kept.release(consumed, &mut self.free));
            out.end_taken |= out.finished && consumed > sent;
        }
    }

    /// What of a direction lies from an offset on and has to be sent again; `None` if it is not there.
    pub(super) fn since(&mut self, out: &mut Outgoing, offset: u64) -> Option<VecDeque<Bytes>> {
        let (pieces, released) = out.kept.as_mut()?.since(offset, &mut self.free)?;
        self.budget.release(released);
        Some(pieces)
    }

    pub(super) fn take_free(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(lens: &[usize]) -> RetransmitBuffer {
        let mut kept = RetransmitBuffer::default();
        for len in lens {
            kept.push(vec![0; *len].into());
        }
        kept
    }

    #[test]
    fn what_was_taken_is_let_go_and_the_rest_is_there() {
        let (mut kept, mut free) = (kept(&[100, 50, 1]), Vec::new());
        assert_eq!((kept.release(99, &mut free), kept.len, free.len()), (99, 52, 0));
        assert_eq!((kept.release(99, &mut free), kept.release(50, &mut free)), (0, 0), "a late one");
        assert_eq!((kept.release(150, &mut free), kept.len, free.len()), (51, 1, 2));
        assert!(kept.since(149, &mut free).is_none() && kept.since(152, &mut free).is_none());
        let (again, released) = kept.since(150, &mut free).unwrap();
        assert_eq!((again.len(), released, kept.len, kept.again), (1, 0, 0, 1));
        kept.push(vec![0; 10].into());
        assert_eq!(kept.release(u64::MAX, &mut free), 10);
    }
}
