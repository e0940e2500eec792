//! Activation codes and refresh tokens (docs/02, "Enrollment").

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use uuid::{Builder, Uuid};

use crate::api::DeviceView;
use crate::base32;
use crate::control::model::id::{DeviceId, FamilyId, UserId};
use crate::control::model::state::{DeviceStatus, UserStatus};
use crate::control::model::types::Time;
use crate::control::model::{ActivationCode, Device, RefreshFamily, User};
use crate::digest::{NoRandomness, equal, fresh_bytes, sha256_hex};
use crate::frame::SessionCode;

const CODE_LENGTH: usize = 26;
/// A family's id and 256 bits.
const TOKEN_LENGTH: usize = 48;

/// An activation code: 130 random bits in Crockford's base32, 26 characters.
pub(crate) fn fresh_code() -> Result<String, NoRandomness> {
    Ok(fresh_bytes::<CODE_LENGTH>()?.into_iter().map(base32::digit).collect())
}

/// A code as it is made, whatever the letters' case and the separators; `None` if it cannot be one.
pub(crate) fn canonical(text: &str) -> Option<String> {
    let mut code = String::with_capacity(CODE_LENGTH);
    for letter in text.chars().filter(|letter| *letter != '-' && !letter.is_whitespace()) {
        if code.len() == CODE_LENGTH {
            return None;
        }
        code.push(base32::read(letter)?);
    }
    (code.len() == CODE_LENGTH).then_some(code)
}

/// Makes refresh tokens that only the holder of the key can make, and always the same ones. A token begins with its
/// family's id, so that an old one is recognised without being kept.
pub(crate) struct RefreshTokenDeriver(hmac::Key);

impl RefreshTokenDeriver {
    /// A deriver with a key of its own, made from the installation's.
    pub(crate) fn new(key: &[u8]) -> Self {
        let label = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), b"httvps refresh tokens");
        Self(hmac::Key::new(hmac::HMAC_SHA256, label.as_ref()))
    }

    /// The first token of a device that a code made, and its family.
    pub(crate) fn first(&self, code: &str, device: DeviceId) -> (FamilyId, String) {
        let made = |label: &[u8]| hmac::sign(&self.0, &[label, code.as_bytes(), device.as_bytes()].concat());
        let family = made(b"family")
            .as_ref()
            .first_chunk()
            .map_or(FamilyId::nil(), |bytes| Builder::from_custom_bytes(*bytes).into_uuid().into());
        (family, token(family, made(b"enroll").as_ref()))
    }

    /// The token that follows another.
    pub(crate) fn next(&self, family: FamilyId, before: &str) -> String {
        token(family, hmac::sign(&self.0, before.as_bytes()).as_ref())
    }
}

fn token(family: FamilyId, secret: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode([family.as_bytes().as_slice(), secret].concat())
}

/// The family of what may be a token.
pub(crate) fn family_of(token: &str) -> Option<FamilyId> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok().filter(|bytes| bytes.len() == TOKEN_LENGTH)?;
    bytes.first_chunk().map(|family| FamilyId::from(Uuid::from_bytes(*family)))
}

/// Why there are no tokens.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// The activation code is unknown, expired or used.
    Code,
    /// The refresh token is unknown, expired or another device's.
    Token,
    /// The refresh token of this device was used before; its family is gone.
    Reused(DeviceId),
    Banned(SessionCode),
    /// The device to replace is not the user's.
    Replace,
    /// The plan has no room for another device beside these.
    DeviceLimit(Vec<DeviceView>),
}

/// A device's refresh token.
pub(crate) struct Granted {
    pub device: DeviceId,
    pub user: UserId,
    pub token: String,
    pub issued_at: Time,
    pub expires_at: Time,
}

impl Granted {
    /// A token with its row.
    pub(crate) fn of(token: String, row: &RefreshFamily, device: &Device) -> Self {
        Self { device: device.id, user: device.user_id, token, issued_at: row.issued_at, expires_at: row.expires_at }
    }
}

/// An installation that has an activation code.
pub(crate) struct Enrolling {
    /// In its canonical form.
    pub code: String,
    pub device_uuid: String,
    pub platform: String,
    pub name: String,
    pub client_version: Option<String>,
    /// A device of the same user that is revoked for this one.
    pub replace: Option<DeviceId>,
    pub now: Time,
    pub refresh_ttl: Duration,
    pub repeat_within: Duration,
}

/// What may be done with an activation code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeUse {
    Spend,
    /// It made this device a moment ago.
    Repeat(DeviceId),
}

impl Enrolling {
    /// The code as it is stored.
    pub(crate) fn code_hash(&self) -> String {
        sha256_hex(self.code.as_bytes())
    }

    /// What the code is worth.
    pub(crate) fn judge(&self, code: &ActivationCode, user: &User) -> Result<CodeUse, Refused> {
        let worth = match (code.used_at, code.device_id) {
            (None, _) if self.now < code.expires_at => CodeUse::Spend,
            (Some(used_at), Some(device)) if self.now < used_at.after(self.repeat_within) => CodeUse::Repeat(device),
            _ => return Err(Refused::Code),
        };
        if user.status == UserStatus::Banned { Err(Refused::Banned(SessionCode::UserBanned)) } else { Ok(worth) }
    }

    /// Whether a device's first token may be shown once more.
    pub(crate) fn may_repeat(&self, held: &Held) -> bool {
        let device = &held.device;
        held.family.previous_hash.is_none()
            && device.device_uuid == self.device_uuid
            && device.status == DeviceStatus::Active
    }
}

/// A device that has a refresh token.
pub(crate) struct Refreshing {
    pub token: String,
    pub device_uuid: String,
    pub now: Time,
    pub refresh_ttl: Duration,
    pub repeat_within: Duration,
}

/// What is known of a refresh token's family.
pub(crate) struct Held {
    pub family: RefreshFamily,
    pub device: Device,
    pub user: User,
}

/// What may be done with a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenUse {
    Rotate,
    /// Its successor was made a moment ago, and is not used yet.
    Repeat,
    /// It was used before: one of two is a thief.
    Reuse,
}

impl Refreshing {
    /// The token as it is stored.
    pub(crate) fn hash(&self) -> String {
        sha256_hex(self.token.as_bytes())
    }

    /// What the token is worth.
    pub(crate) fn judge(&self, held: &Held) -> Result<TokenUse, Refused> {
        let Held { family, device, user } = held;
        if device.device_uuid != self.device_uuid || family.expires_at <= self.now {
            return Err(Refused::Token);
        }
        let hash = self.hash();
        let worth = if equal(&family.token_hash, &hash) {
            TokenUse::Rotate
        } else if family.previous_hash.as_deref().is_some_and(|previous| equal(previous, &hash))
            && self.now < family.issued_at.after(self.repeat_within)
        {
            TokenUse::Repeat
        } else {
            return Ok(TokenUse::Reuse);
        };
        if user.status == UserStatus::Banned {
            return Err(Refused::Banned(SessionCode::UserBanned));
        }
        if device.status != DeviceStatus::Active {
            return Err(Refused::Banned(SessionCode::DeviceBanned));
        }
        Ok(worth)
    }
}

#[cfg(test)]
mod tests;
