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
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, ClientConfig, NamedGroup, RootCertStore, ServerConfig};
use rustls_platform_verifier::BuilderVerifierExt;

pub use certificate::{Certificate, Look};
pub use certificates::Certificates;
pub use challenges::{Answer, Challenges, is_validation};
pub use identity::Identity;
pub use tickets::Tickets;

/// Tickets that a TLS 1.3 client is given, as by common servers.
const TICKETS: usize = 2;

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

/// A server that speaks HTTP/1.1. A client that comes back resumes with one of the two tickets it was given.
pub fn server(certificates: Arc<Certificates>, tickets: Tickets) -> Result<Arc<ServerConfig>, String> {
    let mut config = ServerConfig::builder_with_provider(server_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.ticketer = Arc::new(tickets);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = TICKETS;
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
