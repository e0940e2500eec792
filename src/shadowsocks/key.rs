use std::fmt;

use ::shadowsocks::ServerConfig;
use ::shadowsocks::config::ServerConfigError;
use ::shadowsocks::crypto::CipherKind;

use super::AccessKeyError;
use crate::net::host;

/// What it takes to use a node: address, cipher and password; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKey {
    /// Address or host name.
    pub host: String,
    /// Port of the Shadowsocks server.
    pub port: u16,
    /// The cipher's name.
    pub method: String,
    /// Password, or base64 key for AEAD-2022; several with colons are the keys of relays and the user's (SIP023).
    pub password: String,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// Why a key cannot be used, without any part of its secret; each says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An access key that cannot be read.
    #[error(transparent)]
    Url(#[from] AccessKeyError),
    /// Not a host.
    #[error("{}", host::EXPECTED)]
    Host,
    /// Not a port.
    #[error("must be 1 to 65535")]
    Port,
    #[error(transparent)]
    Method(#[from] MethodError),
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// Why a cipher is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    #[error(
        "unknown cipher; must be an AEAD or AEAD-2022 one, such as chacha20-ietf-poly1305, aes-256-gcm or \
         2022-blake3-aes-256-gcm"
    )]
    Unknown,
    #[error("the cipher `none` does not encrypt")]
    None,
}

/// Why a password does not fit its cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("the password is empty")]
    Empty,
    #[error("the password does not fit the cipher: {0} wants keys in base64")]
    Encoding(CipherKind),
    #[error("the password does not fit the cipher: a key of {cipher} has {wanted} bytes, this one {found}")]
    Length { cipher: CipherKind, wanted: usize, found: usize },
}

impl From<ServerConfigError> for PasswordError {
    fn from(error: ServerConfigError) -> Self {
        match error {
            ServerConfigError::InvalidKeyEncoding(cipher, _) | ServerConfigError::InvalidUserKeyEncoding(cipher, _) => {
                Self::Encoding(cipher)
            }
            ServerConfigError::InvalidKeyLength(cipher, wanted, found)
            | ServerConfigError::InvalidUserKeyLength(cipher, wanted, found) => Self::Length { cipher, wanted, found },
        }
    }
}

impl NodeKey {
    /// Checks everything and brings the host into its one spelling.
    pub fn canonical(mut self) -> Result<Self, KeyError> {
        self.host = host::canonical(&self.host).ok_or(KeyError::Host)?;
        if self.port == 0 {
            return Err(KeyError::Port);
        }
        self.server_config()?;
        Ok(self)
    }

    /// Checks cipher and password and derives the key.
    pub(crate) fn server_config(&self) -> Result<ServerConfig, KeyError> {
        let method: CipherKind = self.method.parse().map_err(|_| MethodError::Unknown)?;
        if method == CipherKind::NONE {
            return Err(MethodError::None.into());
        }
        if self.password.is_empty() {
            return Err(PasswordError::Empty.into());
        }
        let config = ServerConfig::new((self.host.clone(), self.port), self.password.clone(), method);
        Ok(config.map_err(PasswordError::from)?)
    }
}
