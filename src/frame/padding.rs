use serde::{Deserialize, Serialize};

/// Sizes of the padding behind the first messages of a direction: for each of them the least and the most bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Padding(Vec<(u16, u16)>);

impl Padding {
    /// Most messages that a scheme may pad.
    pub const MAX_MESSAGES: usize = 32;
    /// Most bytes behind one message.
    pub const MAX_BYTES: u16 = 16_384;

    /// The scheme of a client's first `hello` ever (docs/03, "Padding").
    pub fn documented() -> Self {
        Self(vec![(64, 512), (0, 256), (0, 256), (0, 128)])
    }

    /// A scheme of ranges.
    pub fn new(ranges: Vec<(u16, u16)>) -> Self {
        Self(ranges)
    }

    /// The ranges, one a message.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether every range is in order and within the bounds.
    pub fn is_valid(&self) -> bool {
        self.0.len() <= Self::MAX_MESSAGES
            && self.0.iter().all(|(least, most)| least <= most && *most <= Self::MAX_BYTES)
    }
}
