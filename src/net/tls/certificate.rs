//! A server's certificate that is replaced while it serves (docs/04, "Certificates").

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_cert::der::Decode;

use super::names::names_of;
use super::{Identity, TlsError, certificates};
use crate::config::{self, FileError};
use crate::digest::sha256_hex;

/// What is served.
pub(super) struct Served {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) begins: OffsetDateTime,
    pub(super) ends: OffsetDateTime,
    /// Whom it is for, in lower case.
    pub(super) names: Vec<String>,
    /// Of the files.
    digest: String,
}

impl Served {
    pub(super) fn new(identity: &Identity, provider: &CryptoProvider) -> Result<Self, TlsError> {
        let chain = certificates(&identity.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(TlsError::Key)?;
        let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
        let leaf = x509_cert::Certificate::from_der(leaf).map_err(TlsError::Certificate)?;
        let names = names_of(&leaf.tbs_certificate);
        let valid = leaf.tbs_certificate.validity;
        let key = CertifiedKey::from_der(chain, key, provider)?;
        let moment = |since_1970: Duration| {
            OffsetDateTime::UNIX_EPOCH.saturating_add(since_1970.try_into().unwrap_or(time::Duration::MAX))
        };
        Ok(Self {
            key: Arc::new(key),
            begins: moment(valid.not_before.to_unix_duration()),
            ends: moment(valid.not_after.to_unix_duration()),
            names,
            digest: identity.digest(),
        })
    }

    /// What it is called where it is spoken of.
    pub(super) fn name(&self) -> &str {
        self.names.first().map_or("unnamed", String::as_str)
    }
}

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Two files that do not make one.
    #[error("{cert}, {key}: {source}")]
    Pair { cert: String, key: String, source: TlsError },
}

/// Files that cannot be served.
struct Rejected {
    digest: String,
    reason: CertificateError,
    /// It was seen more than once, so nobody is writing the files just now.
    confirmed: bool,
}

/// A certificate chain and its key, served as they are on disk; a pair that cannot be used leaves the former one in place.
pub struct Certificate {
    /// None if it was not read from files.
    files: Option<(String, String)>,
    provider: Arc<CryptoProvider>,
    /// What it is called until there is a first one.
    awaited: Option<String>,
    /// None until there is a first one.
    served: RwLock<Option<Arc<Served>>>,
    rejected: Mutex<Option<Rejected>>,
    warn_before: Duration,
}

/// What a look at the files found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What is served already, or nothing yet.
    Same,
    /// Another certificate, which is served now.
    Replaced,
    /// What cannot be served.
    Rejected,
}

impl Certificate {
    /// Reads PEM files: the chain, leaf first, and the leaf's key.
    pub fn read(cert: &str, key: &str, config: &config::Net) -> Result<Arc<Self>, CertificateError> {
        let identity = Identity::read(cert, key)?;
        let unusable = |source| {
            if cert == key {
                return CertificateError::Tls(source);
            }
            CertificateError::Pair { cert: cert.to_owned(), key: key.to_owned(), source }
        };
        let served = Served::new(&identity, &super::provider()).map_err(unusable)?;
        Ok(Arc::new(Self::new(Some(served), Some((cert.to_owned(), key.to_owned())), config)))
    }

    /// A certificate without files.
    pub fn of(identity: &Identity, config: &config::Net) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self::new(Some(Served::new(identity, &super::provider())?), None, config)))
    }

    /// Chain and key from one file that may come later, or may be of no use yet; until then it has a name.
    pub fn awaited(path: &Path, name: Option<String>, config: &config::Net) -> Arc<Self> {
        let path = path.to_string_lossy().into_owned();
        let mut certificate = Self::new(None, Some((path.clone(), path)), config);
        certificate.awaited = name;
        certificate.look(true);
        Arc::new(certificate)
    }

    /// None at all, where nobody speaks TLS.
    pub fn none(config: &config::Net) -> Arc<Self> {
        Arc::new(Self::new(None, None, config))
    }

    fn new(served: Option<Served>, files: Option<(String, String)>, config: &config::Net) -> Self {
        Self {
            files,
            awaited: None,
            served: RwLock::new(served.map(Arc::new)),
            provider: super::provider(),
            rejected: Mutex::default(),
            warn_before: config.certificate_warn_before,
        }
    }

    /// What it is called where it is spoken of, if it is anything yet.
    pub(super) fn name(&self) -> Option<String> {
        self.served().map(|served| served.name().to_owned()).or_else(|| self.awaited.clone())
    }

    pub(super) fn served(&self) -> Option<Arc<Served>> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rejected(&self) -> MutexGuard<'_, Option<Rejected>> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its files can change.
    pub(super) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// Takes what the files have now. What cannot be used is said once it has been seen twice, or at once if `asked` for.
    pub fn look(&self, asked: bool) -> Look {
        let Some((cert, key)) = &self.files else { return Look::Same };
        let before = self.served();
        if before.is_none() && is_absent(cert) {
            return Look::Same;
        }
        let (digest, made) = match Identity::read(cert, key) {
            Ok(identity) if before.as_ref().is_some_and(|before| before.digest == identity.digest()) => {
                if self.rejected().take().is_some_and(|rejected| rejected.confirmed) {
                    tracing::info!(cert, "certificate files match the served certificate again");
                }
                return Look::Same;
            }
            Ok(identity) => (identity.digest(), Served::new(&identity, &self.provider).map_err(CertificateError::from)),
            Err(error) => (sha256_hex(error.to_string().as_bytes()), Err(error.into())),
        };
        match made {
            Ok(served) => {
                let what = if before.is_some() { "certificate replaced" } else { "certificate loaded" };
                tracing::info!(cert, begins = %served.begins, ends = %served.ends, "{what}");
                *self.served.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(served));
                *self.rejected() = None;
                Look::Replaced
            }
            Err(reason) => {
                let mut rejected = self.rejected();
                let (again, told) = match &*rejected {
                    Some(before) => (before.digest == digest, before.confirmed),
                    None => (false, false),
                };
                let confirmed = again || asked;
                if confirmed && !(again && told) {
                    let instead = if before.is_some() { "the former one is served on" } else { "there is none" };
                    tracing::error!(cert, key, %reason, "the certificate's files cannot be used: {instead}");
                }
                *rejected = Some(Rejected { digest, reason, confirmed });
                Look::Rejected
            }
        }
    }

    /// From when to when the certificate is valid, if there is one.
    pub fn validity(&self) -> Option<(OffsetDateTime, OffsetDateTime)> {
        self.served().map(|served| (served.begins, served.ends))
    }

    /// Whether it is for all of these names.
    pub fn is_for(&self, names: &[String]) -> bool {
        self.served().is_some_and(|served| names.iter().all(|name| served.names.contains(name)))
    }

    /// Whether files were refused that nobody is writing just now.
    pub fn is_unusable(&self) -> bool {
        self.rejected().as_ref().is_some_and(|rejected| rejected.confirmed)
    }

    /// What somebody should look after, at a time.
    pub fn complaints(&self, now: OffsetDateTime) -> Vec<String> {
        let served = self.served();
        let of_time = served.as_ref().and_then(|served| {
            let name = served.name();
            let left = served.ends - now;
            if now < served.begins {
                Some(format!("the certificate of {name} is valid only from {}", served.begins))
            } else if left.is_negative() {
                Some(format!("the certificate of {name} has expired at {}", served.ends))
            } else if left < self.warn_before {
                Some(format!("the certificate of {name} expires at {}, in {} days", served.ends, left.whole_days()))
            } else {
                None
            }
        });
        let rejected = self.rejected();
        let of_files = rejected.as_ref().filter(|rejected| rejected.confirmed).map(|rejected| {
            let whose = served.as_ref().map_or_else(String::new, |served| format!(" of {}", served.name()));
            format!("the certificate{whose}: its files cannot be used: {}", rejected.reason)
        });
        of_time.into_iter().chain(of_files).collect()
    }
}

fn is_absent(path: &str) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
