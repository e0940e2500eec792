//! Node passwords at rest: AES-256-GCM, bound to their row (docs/02, "Secrets").

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::control::db::types::Id;

/// Seals and opens secrets of rows.
pub(super) struct Sealer(RandomizedNonceKey);

impl Sealer {
    /// A sealer with a 256-bit key.
    pub(super) fn new(key: &[u8]) -> Result<Self, String> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| "not a key of 32 bytes".to_owned())
    }

    /// Encrypts a secret of a row.
    pub(super) fn seal(&self, row: Id, secret: &str) -> Result<String, String> {
        let mut bytes = secret.as_bytes().to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(row.0.as_bytes()), &mut bytes)
            .map_err(|_| "encryption failed".to_owned())?;
        let sealed = [nonce.as_ref().as_slice(), &bytes].concat();
        Ok(BASE64_STANDARD.encode(sealed))
    }

    /// Decrypts a secret of a row; fails for another row's or another key's.
    pub(super) fn open(&self, row: Id, sealed: &str) -> Result<String, String> {
        let bytes = BASE64_STANDARD.decode(sealed).map_err(|_| "a sealed secret is not base64".to_owned())?;
        let (salt, body) = bytes.split_at_checked(NONCE_LEN).ok_or("a sealed secret is cut short")?;
        let nonce = Nonce::try_assume_unique_for_key(salt).map_err(|_| "a nonce has the wrong length".to_owned())?;
        let mut body = body.to_vec();
        let opened = self
            .0
            .open_in_place(nonce, Aad::from(row.0.as_bytes()), &mut body)
            .map_err(|_| "a sealed secret does not open with control.encryption_key".to_owned())?;
        String::from_utf8(opened.to_vec()).map_err(|_| "a sealed secret is not text".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_for_its_row_and_key() {
        let sealer = Sealer::new(&[1; 32]).unwrap();
        let (row, other) = (Id::fresh(), Id::fresh());
        let sealed = sealer.seal(row, "hush").unwrap();
        assert_ne!(sealed, sealer.seal(row, "hush").unwrap(), "nonces differ");
        assert_eq!(sealer.open(row, &sealed).as_deref(), Ok("hush"));
        assert!(sealer.open(other, &sealed).is_err());
        assert!(Sealer::new(&[2; 32]).unwrap().open(row, &sealed).is_err());
        assert!(sealer.open(row, "AAAA").is_err());
    }
}
