use serde::{Deserialize, Serialize};

/// News for the user; the session goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Notice {
    /// So many per cent of the period's traffic are used.
    Quota {
        /// The threshold that was crossed.
        percent: u8,
        /// Bytes left.
        remaining_bytes: u64,
    },
    /// The subscription ends soon.
    Expiry {
        /// RFC 3339, UTC.
        valid_until: String,
    },
    /// The gateway will end the session.
    Maintenance {
        /// Milliseconds until then at the latest.
        within_ms: u64,
    },
    /// A kind this version does not know.
    #[serde(other)]
    Unknown,
}
