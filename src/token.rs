//! Device access tokens: JWT, `EdDSA` only (docs/02, "Tokens").

use std::collections::HashMap;
use std::time::Duration;

use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, OctetKeyPairParameters,
    OctetKeyPairType, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

const ISSUER: &str = "httvps";
const AUDIENCE: &str = "httvps-gateway";
const LEEWAY_SECONDS: i64 = 60;

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    /// The device.
    pub sub: Uuid,
    /// Its user.
    pub uid: Uuid,
    /// End of life, seconds since 1970.
    pub exp: i64,
    /// Issued at, seconds since 1970.
    pub iat: i64,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    #[error("the token is not genuine")]
    Invalid,
    #[error("the token has expired")]
    Expired,
    #[error("the token was signed with an unknown key")]
    UnknownKey,
}

/// Why a seed makes no issuer.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeedError {
    #[error("not an Ed25519 seed of 32 bytes")]
    Seed,
    #[error("the key of an Ed25519 seed cannot be encoded")]
    Encoding,
}

/// What could not be signed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SignError(#[from] jsonwebtoken::errors::Error);

/// Public keys by their id.
#[derive(Clone, Default)]
pub struct Verifier(HashMap<String, DecodingKey>);

impl Verifier {
    /// The usable keys of a set.
    pub fn new(set: &JwkSet) -> Self {
        let keys = set.keys.iter().filter_map(|jwk| {
            let id = jwk.common.key_id.clone()?;
            DecodingKey::from_jwk(jwk).ok().map(|key| (id, key))
        });
        Self(keys.collect())
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks signature, issuer and audience, and that it is alive at a moment.
    pub fn verify(&self, token: &str, now: OffsetDateTime) -> Result<Claims, TokenError> {
        let claims = self.verify_any_age(token)?;
        let expired = claims.exp < now.unix_timestamp().saturating_sub(LEEWAY_SECONDS);
        if expired { Err(TokenError::Expired) } else { Ok(claims) }
    }

    /// The claims of a token that may vouch for a session: it was alive when the session began, and has not been expired for
    /// longer than `max_age`. It vouches for no moment before it was made. Moments are seconds since 1970.
    pub fn vouch(&self, token: &str, started_at: i64, now: i64, max_age: Duration) -> Result<Claims, TokenError> {
        let claims = self.verify_any_age(token)?;
        let max_age = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
        let was_alive = started_at.min(now) <= claims.exp.saturating_add(LEEWAY_SECONDS);
        let is_young = now <= claims.exp.saturating_add(max_age);
        if was_alive && is_young { Ok(claims) } else { Err(TokenError::Expired) }
    }

    /// As [`Self::verify`], whatever the token's life.
    pub fn verify_any_age(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let key = header.kid.and_then(|id| self.0.get(&id)).ok_or(TokenError::UnknownKey)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_exp = false;
        jsonwebtoken::decode(token, key, &validation).map(|data| data.claims).map_err(|_| TokenError::Invalid)
    }
}

/// Signs tokens with one key; may publish another beside it, whose tokens are accepted too.
pub struct Issuer {
    key: EncodingKey,
    id: String,
    set: JwkSet,
}

impl Issuer {
    /// An issuer from an Ed25519 seed of 32 bytes.
    pub fn new(seed: &[u8]) -> Result<Self, SeedError> {
        let (key, id, jwk) = key(seed)?;
        Ok(Self { key, id, set: JwkSet { keys: vec![jwk] } })
    }

    /// Also publishes the key of a second seed, which signs nothing: the next one or the last one.
    pub fn with_second(mut self, seed: &[u8]) -> Result<Self, SeedError> {
        let (_, id, jwk) = key(seed)?;
        if id != self.id {
            self.set.keys.push(jwk);
        }
        Ok(self)
    }

    /// The public keys, as `/.well-known/jwks.json` answers them; the one that signs comes first.
    pub fn key_set(&self) -> &JwkSet {
        &self.set
    }

    /// Signs a device's token for a life in seconds.
    pub fn issue(&self, device: Uuid, user: Uuid, now: i64, life: i64) -> Result<String, SignError> {
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: device,
            uid: user,
            exp: now.saturating_add(life),
            iat: now,
        };
        self.sign_compact(&claims, "JWT")
    }

    /// Signs any claims as a compact JWS (RFC 7515) of a type.
    pub fn sign_compact(&self, claims: &impl Serialize, typ: &str) -> Result<String, SignError> {
        let (typ, kid) = (Some(typ.to_owned()), Some(self.id.clone()));
        let header = Header { typ, kid, ..Header::new(Algorithm::EdDSA) };
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }
}

/// The private key of a seed, its id, and the public key.
fn key(seed: &[u8]) -> Result<(EncodingKey, String, Jwk), SeedError> {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use base64::Engine;
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SeedError::Seed)?;
    let document = pair.to_pkcs8v1().map_err(|_| SeedError::Encoding)?;
    let public = pair.public_key().as_ref();
    let id = crate::digest::sha256_hex(public).chars().take(16).collect::<String>();
    let jwk = Jwk {
        common: CommonParameters {
            public_key_use: Some(PublicKeyUse::Signature),
            key_algorithm: Some(KeyAlgorithm::EdDSA),
            key_id: Some(id.clone()),
            ..CommonParameters::default()
        },
        algorithm: AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
            key_type: OctetKeyPairType::OctetKeyPair,
            curve: EllipticCurve::Ed25519,
            x: base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(public),
        }),
    };
    Ok((EncodingKey::from_ed_der(document.as_ref()), id, jwk))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-28 12:00 UTC);

    #[test]
    fn only_genuine_living_tokens_pass() {
        let issuer = Issuer::new(&[7; 32]).unwrap();
        let stranger = Issuer::new(&[8; 32]).unwrap();
        let verifier = Verifier::new(issuer.key_set());
        let now = NOW.unix_timestamp();
        let (device, user) = (Uuid::now_v7(), Uuid::now_v7());
        let token = issuer.issue(device, user, now, 60).unwrap();
        let claims = verifier.verify(&token, NOW).unwrap();
        assert_eq!((claims.sub, claims.uid), (device, user));
        let old = issuer.issue(device, user, now - 200, 100).unwrap();
        assert_eq!(verifier.verify(&old, NOW).unwrap_err(), TokenError::Expired);
        assert!(verifier.verify_any_age(&old).is_ok());
        let then = OffsetDateTime::from_unix_timestamp(now - 90).unwrap();
        assert!(verifier.verify(&old, then).is_ok(), "it was good then");
        let recent = issuer.issue(device, user, now - 130, 100).unwrap();
        assert!(verifier.verify(&recent, NOW).is_ok(), "a minute of leeway");
        let foreign = stranger.issue(device, user, now, 60).unwrap();
        assert_eq!(verifier.verify(&foreign, NOW).unwrap_err(), TokenError::UnknownKey);
        let forged = format!("{}.{}", token.rsplit_once('.').unwrap().0, foreign.rsplit_once('.').unwrap().1);
        assert_eq!(verifier.verify(&forged, NOW).unwrap_err(), TokenError::Invalid);
        assert_eq!(verifier.verify("nonsense", NOW).unwrap_err(), TokenError::Invalid);
        let json = serde_json::to_value(issuer.key_set()).unwrap();
        assert_eq!((&json["keys"][0]["kty"], &json["keys"][0]["crv"]), (&"OKP".into(), &"Ed25519".into()));
    }

    #[test]
    fn a_token_vouches_for_what_is_younger_and_not_for_ever() {
        let issuer = Issuer::new(&[7; 32]).unwrap();
        let verifier = Verifier::new(issuer.key_set());
        let (now, hour) = (1_800_000_000, Duration::from_hours(1));
        let token = issuer.issue(Uuid::now_v7(), Uuid::now_v7(), now, 100).unwrap();
        let vouches = |started, at| verifier.vouch(&token, started, at, hour).is_ok();
        assert!(vouches(now + 50, now + 100) && vouches(now - 60, now + 100 + 3600));
        assert!(vouches(now + 160, now + 200), "a minute of leeway");
        assert!(!vouches(now + 161, now + 200), "the token was dead when it began");
        assert!(!vouches(now + 50, now + 101 + 3600), "the token has been expired for too long");
    }

    #[test]
    fn tokens_outlive_a_rotation_with_two_keys() {
        let (device, user) = (Uuid::now_v7(), Uuid::now_v7());
        let now = NOW.unix_timestamp();
        let before = Issuer::new(&[7; 32]).unwrap().with_second(&[8; 32]).unwrap();
        let after = Issuer::new(&[8; 32]).unwrap().with_second(&[7; 32]).unwrap();
        let (old, new) = (before.issue(device, user, now, 60).unwrap(), after.issue(device, user, now, 60).unwrap());
        assert_ne!(jsonwebtoken::decode_header(&old).unwrap().kid, jsonwebtoken::decode_header(&new).unwrap().kid);
        for issuer in [&before, &after] {
            let verifier = Verifier::new(issuer.key_set());
            assert!(verifier.verify(&old, NOW).is_ok() && verifier.verify(&new, NOW).is_ok());
        }
        let ids: Vec<_> = after.key_set().keys.iter().map(|key| key.common.key_id.clone()).collect();
        assert_eq!((ids.len(), &ids[0]), (2, &jsonwebtoken::decode_header(&new).unwrap().kid));
        let alone = Issuer::new(&[8; 32]).unwrap().with_second(&[8; 32]).unwrap();
        assert_eq!(alone.key_set().keys.len(), 1);
        assert_eq!(Verifier::new(alone.key_set()).verify(&old, NOW).unwrap_err(), TokenError::UnknownKey);
        assert_eq!(Issuer::new(&[8; 32]).unwrap().with_second(&[8; 31]).err(), Some(SeedError::Seed));
    }

    #[test]
    fn other_documents_are_signed_but_are_no_tokens() {
        let issuer = Issuer::new(&[7; 32]).unwrap();
        let document = serde_json::json!({ "exp": 9_999_999_999_i64, "regions": [] });
        let signed = issuer.sign_compact(&document, "config+jwt").unwrap();
        let header = jsonwebtoken::decode_header(&signed).unwrap();
        assert_eq!((header.typ.as_deref(), header.alg), (Some("config+jwt"), Algorithm::EdDSA));
        assert_eq!(Verifier::new(issuer.key_set()).verify(&signed, NOW).unwrap_err(), TokenError::Invalid);
    }
}
