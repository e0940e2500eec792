use std::fmt;

use serde::{Deserialize, Serialize};

use super::lenient::{integer, or_default};
use super::{Features, Padding, Resumable, Resume};

/// A device's access token; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// The token as it travels.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// What a client says of itself: device, token and the wanted exit region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `devices.id` of the control plane.
    pub device_id: String,
    /// The device's access token.
    pub access_token: Token,
    /// Code of the exit region.
    pub region: String,
    /// Version of the client app, for statistics and the operator's minimum.
    #[serde(default, deserialize_with = "or_default")]
    pub client_version: String,
    /// Platform of the client app, for statistics.
    #[serde(default, deserialize_with = "or_default")]
    pub platform: String,
    /// What the client knows beyond the owner's messages.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Features::is_empty")]
    pub features: Features,
    /// Seconds of idleness before a ping that the client asks for.
    #[serde(default, deserialize_with = "integer", skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<u32>,
    /// The session to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// The session whose place this one takes: an earlier `session_id` of this device, whose line is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// The gateway's consent to a `hello`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloOk {
    /// The session's id, for support.
    pub session_id: String,
    /// The features of the client's list that are in force.
    #[serde(default, skip_serializing_if = "Features::is_empty")]
    pub features: Features,
    /// What the client has to keep to, if it asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<HelloLimits>,
    /// Padding from here on and for the next `hello` (v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
    /// How the session is resumed, if the client asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resumable>,
}

/// Limits of a session, told to clients with the feature `limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloLimits {
    /// Streams open at once.
    pub streams: u64,
    /// Largest message in bytes.
    pub message: u64,
    /// OPENs a second.
    pub opens_per_second: u32,
    /// Seconds of idleness before the gateway pings.
    pub keepalive: u64,
    /// Seconds of silence after which the gateway gives up.
    pub dead_after: u64,
    /// Seconds without a datagram after which an association ends.
    pub udp_idle: u64,
}
