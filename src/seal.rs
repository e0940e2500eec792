//! AES-256-GCM for what lies on disk or in a database, bound to where it lies (docs/10, "Secrets").

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// By how many bytes what is sealed grows.
pub const SEALING_OVERHEAD: usize = NONCE_LEN + 16;

/// Why sealed bytes cannot be used.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    #[error("not a key of 32 bytes")]
    Key,
    #[error("encryption failed")]
    Encryption,
    #[error("sealed bytes are cut short")]
    Short,
    #[error("sealed bytes are of another key or place, or damaged")]
    Foreign,
}

/// Seals and opens bytes with one key.
pub struct Sealer(RandomizedNonceKey);

impl Sealer {
    /// A sealer with a 256-bit key.
    pub fn new(key: &[u8]) -> Result<Self, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| SealError::Key)
    }

    /// Encrypts bytes for a place: nonce, ciphertext, tag.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut bytes = plain.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(place), &mut bytes).map_err(|_| SealError::Encryption)?;
        Ok([nonce.as_ref().as_slice(), &bytes].concat())
    }

    /// Decrypts bytes of a place; fails for another place's or another key's.
    pub fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (salt, body) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError::Short)?;
        let nonce = Nonce::try_assume_unique_for_key(salt).map_err(|_| SealError::Short)?;
        let mut body = body.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut body).map_err(|_| SealError::Foreign)?;
        Ok(opened.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_open_only_in_their_place_and_with_their_key() {
        let sealer = Sealer::new(&[1; 32]).unwrap();
        let sealed = sealer.seal(b"here", b"hush").unwrap();
        assert_ne!(sealed, sealer.seal(b"here", b"hush").unwrap(), "nonces differ");
        assert_eq!(sealer.open(b"here", &sealed).as_deref(), Ok(b"hush".as_slice()));
        assert_eq!(sealer.open(b"there", &sealed), Err(SealError::Foreign));
        assert_eq!(Sealer::new(&[2; 32]).unwrap().open(b"here", &sealed), Err(SealError::Foreign));
        assert_eq!(sealer.open(b"here", &sealed[..5]), Err(SealError::Short));
        assert_eq!(Sealer::new(&[1; 31]).err(), Some(SealError::Key));
    }
}
