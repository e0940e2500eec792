use super::{Message, Session};
use crate::frame::{Encoding, Frame, Padding, binary};

/// A small generator (xorshift64*): sizes and jitter need to differ, not to be secret.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// From 0 to 1.
    pub(super) fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.next()).unwrap_or(0)) / f64::from(u32::MAX)
    }

    pub(super) fn within(&mut self, (least, most): (u16, u16)) -> u16 {
        let span = u64::from(most.saturating_sub(least)).saturating_add(1);
        let more = self.next().checked_rem(span).unwrap_or(0);
        least.saturating_add(u16::try_from(more).unwrap_or(0))
    }
}

impl Session {
    /// Pads the messages that are still to be sent by a scheme (v2).
    pub fn pad(&mut self, scheme: &Padding) {
        self.padding = scheme.ranges().iter().copied().collect();
    }

    /// Appends the padding that is this message's turn.
    pub(super) fn append_padding(&mut self, message: &mut Message) {
        if self.padding.is_empty() || self.encoding != Encoding::V2 {
            return;
        }
        let Some(range) = self.padding.pop_front() else { return };
        let taken = message.len().saturating_add(binary::HEADER_LEN);
        let room = binary::MAX_MESSAGE.saturating_sub(taken);
        let len = self.random.within(range);
        if len > 0 && usize::from(len) <= room {
            binary::encode(&Frame::Padding(len), message.append());
        }
    }
}
