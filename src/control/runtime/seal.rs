//! Node passwords at rest: AES-256-GCM, bound to their row (docs/10, "Secrets").

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::control::model::id::NodeId;
use crate::seal::{SealError, Sealer as Bytes};

/// Seals and opens secrets of rows.
pub(crate) struct Sealer(Bytes);

impl Sealer {
    /// A sealer with a 256-bit key.
    pub(crate) fn new(key: &[u8]) -> Result<Self, String> {
        Bytes::new(key).map(Self).map_err(|error| error.to_string())
    }

    /// Encrypts a secret of a row.
    pub(crate) fn seal(&self, row: NodeId, secret: &str) -> Result<String, String> {
        let sealed = self.0.seal(row.as_bytes(), secret.as_bytes()).map_err(|error| error.to_string())?;
        Ok(BASE64_STANDARD.encode(sealed))
    }

    /// Decrypts a secret of a row; fails for another row's or another key's.
    pub(crate) fn open(&self, row: NodeId, sealed: &str) -> Result<String, String> {
        let bytes = BASE64_STANDARD.decode(sealed).map_err(|_| "a sealed secret is not base64".to_owned())?;
        let opened = self.0.open(row.as_bytes(), &bytes).map_err(|error| match error {
            SealError::Foreign => "a sealed secret does not open with control.encryption_key".to_owned(),
            SealError::Key | SealError::Encryption | SealError::Short => error.to_string(),
        })?;
        String::from_utf8(opened).map_err(|_| "a sealed secret is not text".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_for_its_row_and_key() {
        let sealer = Sealer::new(&[1; 32]).unwrap();
        let (row, other) = (NodeId::fresh(), NodeId::fresh());
        let sealed = sealer.seal(row, "hush").unwrap();
        assert_ne!(sealed, sealer.seal(row, "hush").unwrap(), "nonces differ");
        assert_eq!(sealer.open(row, &sealed).as_deref(), Ok("hush"));
        assert!(sealer.open(other, &sealed).is_err());
        assert!(Sealer::new(&[2; 32]).unwrap().open(row, &sealed).is_err());
        assert!(sealer.open(row, "AAAA").is_err());
    }
}
