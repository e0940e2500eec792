use std::env::VarError;
use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A secret, given inline, as `file:PATH` or as `env:NAME`, without the blanks and line ends around it; never printed.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether it was not set.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "\"\"" } else { "<redacted>" })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "<redacted>" })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(deserializer)?;
        let secret = if let Some(path) = text.trim().strip_prefix("file:") {
            std::fs::read_to_string(path).map_err(|error| Error::custom(format_args!("{path}: {error}")))?
        } else if let Some(name) = text.trim().strip_prefix("env:") {
            std::env::var(name).map_err(|error| match error {
                VarError::NotPresent => Error::custom(format_args!("variable {name} is not set")),
                VarError::NotUnicode(_) => Error::custom(format_args!("variable {name} is not UTF-8")),
            })?
        } else {
            text
        };
        let secret = secret.trim();
        if secret.contains(char::is_control) {
            return Err(Error::custom("must not contain line ends or other control characters"));
        }
        Ok(Self::from(secret.to_owned()))
    }
}
