use serde::{Deserialize, Serialize};

use super::{Invalid, Secret, Section, key};

/// Characters that a secret of 128 bits has at least, however it is written.
const SECRET_MIN: usize = 32;

/// `[tls]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the certificate chain.
    pub cert: String,
    /// PEM file of the certificate's key.
    pub key: String,
    /// Whether to make a certificate for localhost at every start.
    pub self_signed: bool,
    /// What gateways derive their ticket keys from that resume each other's clients; empty for keys of its own.
    pub ticket_secret: Secret,
    /// Further certificates, for the names that are in them.
    pub certificates: Vec<Pair>,
}

/// One of `tls.certificates`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// PEM file of the certificate chain.
    pub cert: String,
    /// PEM file of the certificate's key.
    pub key: String,
}

impl Section for Tls {
    const NAME: &'static str = "tls";

    fn validate(&self) -> Result<(), Invalid> {
        if self.cert.is_empty() != self.key.is_empty() {
            return Err(Invalid::new(key!(Self, cert), "cert and key must be set together"));
        }
        if self.self_signed && !self.cert.is_empty() {
            return Err(Invalid::new(key!(Self, self_signed), "excludes cert and key"));
        }
        if !self.ticket_secret.is_empty() && self.ticket_secret.expose().len() < SECRET_MIN {
            let reason =
                format!("must have at least {SECRET_MIN} characters, such as `openssl rand -base64 32` prints");
            return Err(Invalid::new(key!(Self, ticket_secret), reason));
        }
        if self.certificates.iter().any(|pair| pair.cert.is_empty() || pair.key.is_empty()) {
            return Err(Invalid::new(key!(Self, certificates), "each must have cert and key"));
        }
        Ok(())
    }
}
