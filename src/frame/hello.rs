use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// Version of the client app, for statistics.
    #[serde(default)]
    pub client_version: String,
    /// Platform of the client app, for statistics.
    #[serde(default)]
    pub platform: String,
}

/// The gateway's consent to a `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloOk {
    /// The session's id, for support.
    pub session_id: String,
}
