//! Identities: a chain and its key in PEM, read or made.

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

use super::TlsError;
use crate::config::{FileError, read_file};
use crate::digest::sha256_hex;

/// What a self-signed certificate is for.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// How long it is valid, and how much of that was before it was made.
const VALIDITY: Duration = Duration::days(90);
const BACKDATED: Duration = Duration::days(1);

/// A server's certificate chain and key in PEM.
pub struct Identity {
    /// The chain, leaf first.
    pub cert: Vec<u8>,
    /// The leaf's key.
    pub key: Vec<u8>,
}

impl Identity {
    /// Reads both from files, which may be the same one.
    pub fn read(cert: &str, key: &str) -> Result<Self, FileError> {
        Ok(Self { cert: read_file(cert)?, key: read_file(key)? })
    }

    /// Of chain and key together.
    pub(super) fn digest(&self) -> String {
        sha256_hex(&[self.cert.as_slice(), &self.key].concat())
    }

    /// A fresh self-signed certificate for localhost and the loopback addresses, valid for 90 days since yesterday.
    pub fn self_signed(now: OffsetDateTime) -> Result<Self, TlsError> {
        let made = || -> Result<Self, rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(LOCAL_NAMES.map(str::to_owned))?;
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, LOCAL_NAMES[0]);
            params.not_before = now - BACKDATED;
            params.not_after = params.not_before + VALIDITY;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let cert = params.self_signed(&key)?;
            Ok(Self { cert: cert.pem().into_bytes(), key: key.serialize_pem().into_bytes() })
        };
        Ok(made()?)
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use time::macros::datetime;
    use x509_cert::der::Decode;

    use super::*;

    #[test]
    fn a_self_signed_certificate_looks_like_anybodys() {
        let now = datetime!(2026-11-28 12:00 UTC);
        let identity = Identity::self_signed(now).unwrap();
        let der = CertificateDer::from_pem_slice(&identity.cert).unwrap();
        let cert = x509_cert::Certificate::from_der(&der).unwrap().tbs_certificate;
        assert_eq!((cert.subject.to_string(), cert.issuer.to_string()), ("CN=localhost".into(), "CN=localhost".into()));
        let seconds = |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap();
        let (begins, ends) = (seconds(cert.validity.not_before), seconds(cert.validity.not_after));
        assert_eq!(ends - begins, 90 * 86_400);
        assert!((now.unix_timestamp() - begins) == 86_400, "{begins}");
    }
}
