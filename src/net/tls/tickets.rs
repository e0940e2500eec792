//! Session tickets under keys that rotate, those of one process or of all that share a secret (docs/04, "Tickets").

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use rustls::server::ProducesTickets;

use crate::clock::Clock;
use crate::digest::fresh_bytes;
use crate::seal::{SEALING_OVERHEAD, Sealer};

const SALT: &[u8] = b"httvps session tickets";
const NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;
/// When it was made, and how long the state in it is.
const HEAD_LEN: usize = 8 + 2;
/// Tickets are of this size, or longer by whole blocks, as those of common servers are.
const LEAST: usize = 208;
const BLOCK: usize = 16;

/// Where keys come from.
enum Source {
    /// The same keys for everybody who has the secret.
    Shared(Prk),
    /// Random ones, which are gone once they are out of use.
    Own,
}

/// The key of one period.
struct Key {
    period: u64,
    name: [u8; NAME_LEN],
    sealer: Sealer,
}

/// Makes and opens tickets (RFC 5077, RFC 8446 4.6.1).
pub struct Tickets {
    source: Source,
    /// Seconds that a ticket is good for, and that a key is in use.
    lifetime: u64,
    clock: Clock,
    keys: RwLock<Vec<Key>>,
}

/// How many bytes HKDF is to give.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        NAME_LEN + KEY_LEN
    }
}

impl Tickets {
    /// Keys of this process alone.
    pub fn own(lifetime: Duration, clock: Clock) -> Self {
        Self::new(Source::Own, lifetime, clock)
    }

    /// Keys that everybody derives who has the secret.
    pub fn shared(secret: &[u8], lifetime: Duration, clock: Clock) -> Self {
        Self::new(Source::Shared(Salt::new(HKDF_SHA256, SALT).extract(secret)), lifetime, clock)
    }

    fn new(source: Source, lifetime: Duration, clock: Clock) -> Self {
        Self { source, lifetime: lifetime.as_secs().max(1), clock, keys: RwLock::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.unix_seconds()).unwrap_or_default()
    }

    fn derive(&self, period: u64) -> Option<Key> {
        let bytes = match &self.source {
            Source::Shared(secret) => {
                let mut bytes = [0; NAME_LEN + KEY_LEN];
                let period = period.to_be_bytes();
                secret.expand(&[&period], Length).and_then(|made| made.fill(&mut bytes)).ok()?;
                bytes
            }
            Source::Own => fresh_bytes().ok()?,
        };
        let (name, key) = bytes.split_first_chunk()?;
        Some(Key { period, name: *name, sealer: Sealer::new(key).ok()? })
    }

    /// The last period of which there is a key: with a shared secret the next one, for clocks that are ahead.
    fn newest(&self, period: u64) -> u64 {
        period + u64::from(matches!(self.source, Source::Shared(_)))
    }

    /// Keeps the keys of this period and the one before, and makes those that are missing. A process needs none of its own
    /// from before it began.
    fn roll(&self, period: u64) {
        let (before, newest) = (period.saturating_sub(1), self.newest(period));
        let first = if matches!(self.source, Source::Shared(_)) { before } else { period };
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|key| (before..=newest).contains(&key.period));
        for wanted in first..=newest {
            if keys.iter().all(|key| key.period != wanted) {
                keys.extend(self.derive(wanted));
            }
        }
    }

    /// Does something with the keys of a period.
    fn with_keys<T>(&self, period: u64, act: impl Fn(&[Key]) -> Option<T>) -> Option<T> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if keys.iter().map(|key| key.period).max() == Some(self.newest(period)) {
            return act(&keys);
        }
        drop(keys);
        self.roll(period);
        act(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seal(&self, state: &[u8], now: u64) -> Option<Vec<u8>> {
        let period = now.checked_div(self.lifetime)?;
        let bare = NAME_LEN + SEALING_OVERHEAD + HEAD_LEN + state.len();
        let padded = bare.next_multiple_of(BLOCK).max(LEAST);
        let mut plain = Vec::with_capacity(padded);
        plain.extend(now.to_be_bytes());
        plain.extend(u16::try_from(state.len()).ok()?.to_be_bytes());
        plain.extend(state);
        plain.resize(plain.len() + padded - bare, 0);
        self.with_keys(period, |keys| {
            let key = keys.iter().find(|key| key.period == period)?;
            let sealed = key.sealer.seal(&key.name, &plain).ok()?;
            Some([key.name.as_slice(), &sealed].concat())
        })
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_first_chunk::<NAME_LEN>()?;
        let plain = self.with_keys(now.checked_div(self.lifetime)?, |keys| {
            let key = keys.iter().find(|key| key.name == *name)?;
            key.sealer.open(name, sealed).ok()
        })?;
        let (made, rest) = plain.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let age = now.saturating_sub(u64::from_be_bytes(*made));
        let state = rest.get(..usize::from(u16::from_be_bytes(*len)))?;
        (age <= self.lifetime).then(|| state.to_vec())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, self.now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, self.now())
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
