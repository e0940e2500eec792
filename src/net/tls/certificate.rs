//! A server's certificate that is replaced while it serves (docs/04, "Certificates").

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use x509_cert::der::Decode;

use super::{Identity, certificates};
use crate::config;
use crate::digest::sha256_hex;
use crate::lifecycle::Shutdown;
use crate::metrics::Metrics;

const DAY: i64 = 86_400;

/// What is served.
struct Served {
    key: Arc<CertifiedKey>,
    begins: OffsetDateTime,
    ends: OffsetDateTime,
    /// Of the files.
    digest: String,
}

impl Served {
    fn new(identity: &Identity, provider: &CryptoProvider) -> Result<Self, String> {
        let chain = certificates(&identity.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(|error| format!("no private key: {error}"))?;
        let leaf = chain.first().ok_or("no certificate in PEM form")?;
        let leaf = x509_cert::Certificate::from_der(leaf).map_err(|error| format!("not a certificate: {error}"))?;
        let valid = leaf.tbs_certificate.validity;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| error.to_string())?;
        let moment = |since_1970: Duration| {
            OffsetDateTime::UNIX_EPOCH.saturating_add(since_1970.try_into().unwrap_or(time::Duration::MAX))
        };
        Ok(Self {
            key: Arc::new(key),
            begins: moment(valid.not_before.to_unix_duration()),
            ends: moment(valid.not_after.to_unix_duration()),
            digest: identity.digest(),
        })
    }
}

/// Files that cannot be served.
struct Rejected {
    digest: String,
    reason: String,
    /// It was seen more than once, so nobody is writing the files just now.
    settled: bool,
}

/// A certificate chain and its key, served as they are on disk; a pair that cannot be used leaves the former one in place.
pub struct Certificate {
    /// None if it was not read from files.
    files: Option<(String, String)>,
    provider: Arc<CryptoProvider>,
    served: RwLock<Arc<Served>>,
    rejected: Mutex<Option<Rejected>>,
    check_every: Duration,
    warn_before: Duration,
    expiry: prometheus::IntGauge,
    unusable: prometheus::IntGauge,
}

/// What a look at the files found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Same,
    Replaced,
    Rejected,
}

impl Certificate {
    /// Reads PEM files: the chain, leaf first, and the leaf's key.
    pub fn read(cert: &str, key: &str, config: &config::Net, metrics: &Metrics) -> Result<Arc<Self>, String> {
        let files = Some((cert.to_owned(), key.to_owned()));
        Self::new(&Identity::read(cert, key)?, files, config, metrics)
    }

    /// A certificate without files.
    pub fn of(identity: &Identity, config: &config::Net, metrics: &Metrics) -> Result<Arc<Self>, String> {
        Self::new(identity, None, config, metrics)
    }

    fn new(
        identity: &Identity,
        files: Option<(String, String)>,
        config: &config::Net,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, String> {
        let provider = super::provider();
        let certificate = Self {
            files,
            served: RwLock::new(Arc::new(Served::new(identity, &provider)?)),
            provider,
            rejected: Mutex::default(),
            check_every: config.certificate_check,
            warn_before: config.certificate_warn_before,
            expiry: metrics.gauge("httvps_certificate_expiry_seconds", "Until the certificate expires, negative after"),
            unusable: metrics.gauge("httvps_certificate_unusable", "Whether the certificate's files cannot be used"),
        };
        for complaint in certificate.complaints(OffsetDateTime::now_utc()) {
            tracing::warn!("{complaint}");
        }
        Ok(Arc::new(certificate))
    }

    fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn rejected(&self) -> MutexGuard<'_, Option<Rejected>> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the files every `net.certificate_check`, and at SIGHUP, until drained.
    pub async fn watch(self: &Arc<Self>, shutdown: &Shutdown) {
        if self.files.is_none() {
            return;
        }
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            let asked = tokio::select! {
                () = shutdown.draining() => return,
                () = heard(&mut hangup) => true,
                () = tokio::time::sleep(self.check_every), if !self.check_every.is_zero() => false,
            };
            let certificate = Arc::clone(self);
            if let Err(error) = tokio::task::spawn_blocking(move || certificate.look(asked)).await {
                tracing::error!(%error, "the certificate's files were not looked at");
            }
        }
    }

    /// Takes what the files have now. What cannot be used is said once it has been seen twice, or at once if `asked` for.
    fn look(&self, asked: bool) -> Look {
        let Some((cert, key)) = &self.files else { return Look::Same };
        let (digest, made) = match Identity::read(cert, key) {
            Ok(identity) if identity.digest() == self.served().digest => {
                if self.rejected().take().is_some_and(|rejected| rejected.settled) {
                    tracing::info!(cert, "the files have the certificate that is served again");
                }
                return Look::Same;
            }
            Ok(identity) => (identity.digest(), Served::new(&identity, &self.provider)),
            Err(reason) => (sha256_hex(reason.as_bytes()), Err(reason)),
        };
        match made {
            Ok(served) => {
                tracing::info!(cert, begins = %served.begins, ends = %served.ends, "certificate replaced");
                *self.served.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(served);
                *self.rejected() = None;
                Look::Replaced
            }
            Err(reason) => {
                let mut rejected = self.rejected();
                let (again, told) = match &*rejected {
                    Some(before) => (before.digest == digest, before.settled),
                    None => (false, false),
                };
                let settled = again || asked;
                if settled && !(again && told) {
                    tracing::error!(
                        cert,
                        key,
                        reason,
                        "the certificate's files cannot be used: the former one is served on"
                    );
                }
                *rejected = Some(Rejected { digest, reason, settled });
                Look::Rejected
            }
        }
    }

    /// From when to when the certificate is valid.
    pub fn validity(&self) -> (OffsetDateTime, OffsetDateTime) {
        let served = self.served();
        (served.begins, served.ends)
    }

    /// Sets the gauges for a time.
    pub fn show(&self, now: OffsetDateTime) {
        self.expiry.set((self.validity().1 - now).whole_seconds());
        self.unusable.set(self.rejected().as_ref().is_some_and(|rejected| rejected.settled).into());
    }

    /// What somebody should look after, at a time.
    pub fn complaints(&self, now: OffsetDateTime) -> Vec<String> {
        let served = self.served();
        let left = (served.ends - now).whole_seconds();
        let of_time = if now < served.begins {
            Some(format!("the certificate is valid only from {}", served.begins))
        } else if left < 0 {
            Some(format!("the certificate has expired at {}", served.ends))
        } else if left < i64::try_from(self.warn_before.as_secs()).unwrap_or(i64::MAX) {
            Some(format!("the certificate expires at {}, in {} days", served.ends, left / DAY))
        } else {
            None
        };
        let rejected = self.rejected();
        let of_files = rejected.as_ref().filter(|rejected| rejected.settled);
        let of_files = of_files.map(|rejected| format!("the certificate's files cannot be used: {}", rejected.reason));
        of_time.into_iter().chain(of_files).collect()
    }
}

async fn heard(hangup: &mut Option<Signal>) {
    let heard = match hangup {
        Some(hangup) => hangup.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending::<()>().await;
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.served().key))
    }
}

#[cfg(test)]
mod tests;
