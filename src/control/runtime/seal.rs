//! Secrets at rest: AES-256-GCM, bound to their row (docs/10, "Secrets").

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::seal::{SealError, Sealer as Bytes};

/// Seals and opens secrets of rows.
pub(crate) struct Sealer(Bytes);

/// Why a secret cannot be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("a sealed secret is not base64")]
    Base64,
    #[error("a sealed secret does not open with control.encryption_key")]
    Foreign,
    #[error("a sealed secret is not text")]
    Text,
    #[error(transparent)]
    Seal(SealError),
}

impl From<SealError> for SecretError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Foreign => Self::Foreign,
            SealError::Key | SealError::Encryption | SealError::Short => Self::Seal(error),
        }
    }
}

impl Sealer {
    /// A sealer with a 256-bit key.
    pub(crate) fn new(key: &[u8]) -> Result<Self, SealError> {
        Bytes::new(key).map(Self)
    }

    /// Encrypts a secret of the row with a key.
    pub(crate) fn seal(&self, row: &[u8], secret: &str) -> Result<String, SecretError> {
        Ok(BASE64_STANDARD.encode(self.0.seal(row, secret.as_bytes())?))
    }

    /// Decrypts a secret of a row; fails for another row's or another key's.
    pub(crate) fn open(&self, row: &[u8], sealed: &str) -> Result<String, SecretError> {
        let bytes = BASE64_STANDARD.decode(sealed).map_err(|_| SecretError::Base64)?;
        let opened = self.0.open(row, &bytes)?;
        String::from_utf8(opened).map_err(|_| SecretError::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_for_its_row_and_key() {
        let sealer = Sealer::new(&[1; 32]).unwrap();
        let (row, other) = (b"this".as_slice(), b"that".as_slice());
        let sealed = sealer.seal(row, "hush").unwrap();
        assert_ne!(sealed, sealer.seal(row, "hush").unwrap(), "nonces differ");
        assert_eq!(sealer.open(row, &sealed).as_deref(), Ok("hush"));
        assert_eq!(sealer.open(other, &sealed), Err(SecretError::Foreign));
        assert_eq!(Sealer::new(&[2; 32]).unwrap().open(row, &sealed), Err(SecretError::Foreign));
        assert_eq!(sealer.open(row, "AAAA"), Err(SecretError::Seal(SealError::Short)));
        assert_eq!(sealer.open(row, "?"), Err(SecretError::Base64));
    }
}
