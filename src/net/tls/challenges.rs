//! Answers to TLS-ALPN-01 (RFC 8737), given only while somebody has been asked to look for them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};

/// The protocol of a validation.
const PROTOCOL: &[u8] = b"acme-tls/1";
/// What a challenge's digest has.
const DIGEST_LEN: usize = 32;

/// Whether a connection was made to see an answer, and is over with that.
pub fn is_validation(connection: &ServerConnection) -> bool {
    connection.alpn_protocol() == Some(PROTOCOL)
}

/// Why a challenge cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    #[error("a challenge's digest has {DIGEST_LEN} bytes, not {0}")]
    Digest(usize),
    /// A certificate could not be made.
    #[error(transparent)]
    Made(#[from] rcgen::Error),
    #[error("{0}")]
    Key(&'static str),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The answers of a listener. Without any it knows nothing of the protocol.
pub struct Challenges {
    config: Arc<ServerConfig>,
    answers: Arc<Answers>,
}

/// Takes its answer back when it is dropped.
#[must_use]
pub struct Answer {
    answers: Arc<Answers>,
    name: String,
}

struct Answers {
    usual: Arc<dyn ResolvesServerCert>,
    by_name: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Challenges {
    /// For a listener that otherwise serves as it is configured.
    pub fn new(usual: &ServerConfig) -> Self {
        let by_name = RwLock::default();
        let answers = Arc::new(Answers { usual: Arc::clone(&usual.cert_resolver), by_name });
        let mut config = usual.clone();
        config.alpn_protocols.push(PROTOCOL.to_vec());
        config.cert_resolver = Arc::clone(&answers) as Arc<dyn ResolvesServerCert>;
        Self { config: Arc::new(config), answers }
    }

    /// How connections are to be served while there are answers.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        let by_name = self.answers.by_name.read().unwrap_or_else(PoisonError::into_inner);
        (!by_name.is_empty()).then(|| Arc::clone(&self.config))
    }

    /// Answers for a name, with the SHA-256 of the challenge's key authorization.
    pub fn answer(&self, name: &str, digest: &[u8]) -> Result<Answer, ChallengeError> {
        if digest.len() != DIGEST_LEN {
            return Err(ChallengeError::Digest(digest.len()));
        }
        let made = || -> Result<_, rcgen::Error> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new([name.to_owned()])?;
            params.distinguished_name = DistinguishedName::new();
            params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
            Ok((params.self_signed(&key)?.der().clone(), key.serialize_der()))
        };
        let (cert, key) = made()?;
        let key = PrivateKeyDer::try_from(key).map_err(ChallengeError::Key)?;
        let key = super::provider().key_provider.load_private_key(key)?;
        let mut by_name = self.answers.by_name.write().unwrap_or_else(PoisonError::into_inner);
        by_name.insert(name.to_owned(), Arc::new(CertifiedKey::new(vec![cert], key)));
        Ok(Answer { answers: Arc::clone(&self.answers), name: name.to_owned() })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.answers.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").field("usual", &self.usual).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Answers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asks = hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == PROTOCOL));
        if !asks {
            return self.usual.resolve(hello);
        }
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(hello.server_name()?).cloned()
    }
}
