//! Hashes of tokens and fresh random secrets.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use crate::base32;

/// SHA-256 in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "a string grows");
        text
    })
}

/// Whether two texts are equal, in a time that does not tell where they differ.
pub fn equal(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

/// The system gives no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// Random bytes, such as a key's.
pub fn fresh_bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// 256 random bits for a URL or a header.
pub fn fresh_token() -> Result<String, NoRandomness> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(fresh_bytes::<32>()?))
}

/// A 256-bit key in base64.
pub fn fresh_key() -> Result<String, NoRandomness> {
    Ok(BASE64_STANDARD.encode(fresh_bytes::<32>()?))
}

/// A path for tunnels that nobody guesses.
pub fn fresh_path() -> Result<String, NoRandomness> {
    Ok(format!("/{}", BASE64_URL_SAFE_NO_PAD.encode(fresh_bytes::<12>()?)))
}

/// 64 random bits, or 0 without randomness.
pub fn fresh_number() -> u64 {
    fresh_bytes::<8>().map_or(0, u64::from_ne_bytes)
}

/// What a refused client quotes: 40 random bits in Crockford's base 32, such as `7KQ2-M9XD`.
pub fn fresh_support_id() -> String {
    let digits: String = fresh_number().to_le_bytes().into_iter().map(base32::digit).collect();
    base32::grouped(&digits)
}

/// A random number from 0 to 1.
pub fn fresh_fraction() -> f64 {
    fresh_bytes::<2>().map_or(0.5, |bytes| f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX))
}
