use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Invalid, Secret, Section, key};
use crate::frame::is_strict_name;

const NAMES_MAX: usize = 100;

/// `[acme]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// Host names of the certificate; none turns it off.
    pub names: Vec<String>,
    /// URL of the directory.
    pub directory: String,
    /// Whom the directory tells of problems, as URLs.
    pub contact: Vec<String>,
    /// External account binding: the key's name.
    pub eab_key_id: String,
    /// External account binding: the key in base64url.
    pub eab_key: Secret,
    /// PEM file of the authority of the directory's certificate; empty trusts the system's.
    pub ca: String,
    /// How the names are proven.
    pub challenge: Challenge,
    /// Where HTTP-01 is answered while an order is open.
    pub http_listen: String,
    /// How long before it expires a certificate is renewed, at most a third of its validity.
    #[serde(with = "humantime_serde")]
    pub renew_before: Duration,
    /// Pause after the first failure.
    #[serde(with = "humantime_serde")]
    pub retry_min: Duration,
    /// Longest pause between trials.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
    /// How long the directory has for an answer.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// How long it has to look at the answers, and to make the certificate.
    #[serde(with = "humantime_serde")]
    pub order_timeout: Duration,
}

/// How the directory sees that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Challenge {
    /// RFC 8737, on the clients' listener.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// RFC 8555, 8.3.
    #[serde(rename = "http-01")]
    Http01,
}

impl Acme {
    /// Whether a certificate is to be obtained.
    pub fn is_on(&self) -> bool {
        !self.names.is_empty()
    }
}

impl Section for Acme {
    const NAME: &'static str = "acme";

    fn validate(&self) -> Result<(), Invalid> {
        if let Some(name) = self.names.iter().find(|name| !is_host_name(name)) {
            let reason = if name.starts_with("*.") {
                format!(
                    "{name} can only be proven by DNS-01, which other programs do: let one write tls.cert and tls.key"
                )
            } else {
                format!("{name:?} is no host name in lower case, such as vpn.example.com")
            };
            return Err(Invalid::new(key!(Self, names), reason));
        }
        if self.names.len() > NAMES_MAX {
            return Err(Invalid::new(key!(Self, names), format!("must be at most {NAMES_MAX}")));
        }
        if !self.directory.starts_with("https://") {
            return Err(Invalid::new(key!(Self, directory), "must begin with https://"));
        }
        if let Some(contact) = self.contact.iter().find(|contact| !contact.contains(':')) {
            return Err(Invalid::new(
                key!(Self, contact),
                format!("{contact:?} is no URL, such as mailto:ops@example.com"),
            ));
        }
        if self.eab_key_id.is_empty() != self.eab_key.is_empty() {
            return Err(Invalid::new(key!(Self, eab_key_id), "eab_key_id and eab_key must be set together"));
        }
        let periods = [
            (key!(Self, retry_min), self.retry_min),
            (key!(Self, request_timeout), self.request_timeout),
            (key!(Self, order_timeout), self.order_timeout),
        ];
        if let Some((key, _)) = periods.into_iter().find(|(_, period)| period.is_zero()) {
            return Err(Invalid::new(key, "must be longer than zero"));
        }
        if self.retry_max < self.retry_min {
            return Err(Invalid::new(key!(Self, retry_max), "must be at least retry_min"));
        }
        Ok(())
    }
}

fn is_host_name(name: &str) -> bool {
    let is_plain = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    let is_address = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    is_plain && is_strict_name(name) && !is_address
}
