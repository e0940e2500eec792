//! TLS configurations of both sides, rustls with aws-lc-rs.

mod certificate;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::config::read_file;
use crate::digest::sha256_hex;
pub use certificate::Certificate;

/// HTTP/2 and HTTP/1.1 in ALPN.
pub const H2: &str = "h2";
pub const HTTP_1_1: &str = "http/1.1";

/// A server's certificate chain and key in PEM.
pub struct Identity {
    /// The chain, leaf first.
    pub cert: Vec<u8>,
    /// The leaf's key.
    pub key: Vec<u8>,
}

impl Identity {
    /// Reads both from files.
    pub fn read(cert: &str, key: &str) -> Result<Self, String> {
        Ok(Self { cert: read_file(cert)?, key: read_file(key)? })
    }

    /// Of chain and key together.
    fn digest(&self) -> String {
        sha256_hex(&[self.cert.as_slice(), &self.key].concat())
    }

    /// A fresh self-signed certificate for localhost and the loopback addresses.
    pub fn self_signed() -> Result<Self, String> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
        Ok(Self { cert: made.cert.pem().into_bytes(), key: made.signing_key.serialize_pem().into_bytes() })
    }
}

/// AES-128 comes first, as in browsers: it is what costs least where the processor knows AES. A server follows its
/// client's order, so one without prefers `ChaCha20`.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// A server that speaks these protocols of ALPN, the first that its client knows. A client that comes back resumes with a
/// ticket, under keys that rotate.
pub fn server(certificate: Arc<Certificate>, protocols: &[&str]) -> Result<Arc<ServerConfig>, String> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// A client that trusts the authorities in `ca`, or the system's without one.
pub fn client(ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match ca {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for cert in certificates(pem)? {
                roots.add(cert).map_err(|error| error.to_string())?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.with_platform_verifier().map_err(|error| error.to_string())?,
    };
    Ok(Arc::new(builder.with_no_client_auth()))
}

/// A client for a URL: one in clear text needs no authorities, so that none have to be installed.
pub fn client_for(url: &str, ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    if ca.is_none() && url.starts_with("http://") { trusting_nobody() } else { client(ca) }
}

/// A client that accepts no certificate.
pub fn trusting_nobody() -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certs {
        Ok(certs) if certs.is_empty() => Err("no certificate in PEM form".into()),
        Ok(certs) => Ok(certs),
        Err(error) => Err(format!("not a certificate: {error}")),
    }
}
