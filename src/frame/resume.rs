use std::ops::Not;

use serde::{Deserialize, Serialize};

use super::Token;
use super::lenient::{or_default, whole};

/// What one end of a session has received of a stream (docs/03, "Resume").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// The stream's id.
    #[serde(deserialize_with = "whole")]
    pub id: u32,
    /// Bytes received; 0 for datagrams.
    #[serde(deserialize_with = "whole")]
    pub received: u64,
    /// Whether the other side's end was received, too.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Not::not")]
    pub fin: bool,
}

/// A client's wish to go on with the session whose connection it lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The last ticket it was given.
    pub ticket: Token,
    /// The highest id that it has opened, 0 if none.
    #[serde(deserialize_with = "whole")]
    pub opened: u32,
    /// The streams that it has.
    pub streams: Vec<StreamState>,
}

/// What a gateway says of resuming a session: this one, or later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumable {
    /// Resumes the session, once.
    pub ticket: Token,
    /// Seconds for which a session whose connection was lost is held.
    #[serde(deserialize_with = "whole")]
    pub hold: u64,
    /// Whether this is the session that the client wanted to go on with.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Not::not")]
    pub resumed: bool,
    /// The highest id that the gateway has seen opened, if so.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub opened: u32,
    /// The streams that it has, if so.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamState>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}
