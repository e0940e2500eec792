//! TLS configurations of both sides, rustls with aws-lc-rs.

mod certificate;
mod certificates;
mod challenges;
mod identity;
mod names;
mod tickets;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{CipherSuite, ClientConfig, NamedGroup, RootCertStore, ServerConfig};
use rustls_platform_verifier::BuilderVerifierExt;

pub use certificate::{Certificate, CertificateError, Look};
pub use certificates::Certificates;
pub use challenges::{Answer, ChallengeError, Challenges, is_validation};
pub use identity::Identity;
pub use tickets::Tickets;

/// HTTP/2 and HTTP/1.1 in ALPN.
pub const H2: &str = "h2";
pub const HTTP_1_1: &str = "http/1.1";
/// Tickets that a TLS 1.3 client is given, as by common servers.
const TICKETS: usize = 2;

/// Why TLS cannot be spoken as it should.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no certificate in PEM form")]
    NoCertificate,
    #[error("not a certificate: {0}")]
    Pem(#[source] pem::Error),
    #[error("not a certificate: {0}")]
    Certificate(#[source] x509_cert::der::Error),
    #[error("no private key: {0}")]
    Key(#[source] pem::Error),
    /// A certificate could not be made.
    #[error(transparent)]
    Made(#[from] rcgen::Error),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// AES-128 comes first, as in browsers: it is what costs least where the processor knows AES. Key exchange is first tried
/// with X25519 and ML-KEM-768 together.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups.sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768);
    Arc::new(provider)
}

/// A server follows its client's order, so one without AES in its processor prefers `ChaCha20`; with TLS 1.2 it has no choice.
fn server_provider() -> Arc<CryptoProvider> {
    let mut provider = (*provider()).clone();
    provider.cipher_suites.retain(|suite| {
        let of_old_clients =
            [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        suite.tls13().is_some() || of_old_clients.contains(&suite.suite())
    });
    Arc::new(provider)
}

/// A server that speaks these protocols of ALPN, the first that its client knows. A client that comes back resumes with one
/// of the two tickets it was given.
pub fn server(
    certificates: Arc<Certificates>,
    tickets: Tickets,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(server_provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.ticketer = Arc::new(tickets);
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.send_tls13_tickets = TICKETS;
    Ok(Arc::new(config))
}

/// A client that trusts the authorities in `ca`, or the system's without one.
pub fn client(ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match ca {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for cert in certificates(pem)? {
                roots.add(cert)?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.with_platform_verifier()?,
    };
    Ok(Arc::new(builder.with_no_client_auth()))
}

/// A client for a URL: one in clear text needs no authorities, so that none have to be installed.
pub fn client_for(url: &str, ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, TlsError> {
    if ca.is_none() && url.starts_with("http://") { trusting_nobody() } else { client(ca) }
}

/// A client that accepts no certificate.
pub fn trusting_nobody() -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certs {
        Ok(certs) if certs.is_empty() => Err(TlsError::NoCertificate),
        Ok(certs) => Ok(certs),
        Err(error) => Err(TlsError::Pem(error)),
    }
}
