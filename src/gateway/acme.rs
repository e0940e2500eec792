//! A certificate by ACME (RFC 8555), obtained and renewed while the gateway serves (docs/04, "ACME").

mod directory;
mod files;
mod order;
mod responder;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::{ExternalAccountKey, OrderStatus, Problem};
use prometheus::IntCounterVec;
use rustls::ServerConfig;
use time::OffsetDateTime;

use super::control_clock::ControlClock;
use crate::config::{self, Challenge, Invalid, key, read_file};
use crate::digest::fresh_fraction;
use crate::lifecycle::{Hangup, Shutdown};
use crate::metrics::Metrics;
use crate::net::listener::{self, BindError};
use crate::net::tls::{Certificate, ChallengeError, Challenges, Look};
use crate::telemetry::causes;

use directory::Http;
use files::Files;
use order::Issued;

/// The clock may be set and the machine may sleep: nothing longer is slept through.
const LOOK_EVERY: Duration = Duration::from_hours(1);
const ACCOUNT_GONE: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Why there is no certificate of an order.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcmeError {
    #[error("{}", causes(.0))]
    Directory(instant_acme::Error),
    #[error("the directory does not know the account")]
    AccountGone,
    #[error("not proven: {name}: the directory does not offer {challenge}")]
    NotOffered { name: String, challenge: &'static str },
    #[error("not proven: {name}: {problem}")]
    Unproven { name: String, problem: Problem },
    #[error("not proven: the order is {0:?}")]
    Order(OrderStatus),
    #[error("a challenge cannot be answered: {0}")]
    Listener(#[from] BindError),
    #[error("a challenge cannot be answered: {0}")]
    Challenge(#[from] ChallengeError),
    #[error("it cannot be kept on disk: {0}")]
    Unkept(#[source] std::io::Error),
    #[error("what the directory gave cannot be used, is not for all of the names, or is due already")]
    Unusable,
}

impl From<instant_acme::Error> for AcmeError {
    fn from(error: instant_acme::Error) -> Self {
        if let instant_acme::Error::Api(problem) = &error
            && problem.r#type.as_deref() == Some(ACCOUNT_GONE)
        {
            return Self::AccountGone;
        }
        Self::Directory(error)
    }
}

/// The account, the orders, and what became of them.
pub(super) struct Acme {
    config: config::Acme,
    net: config::Net,
    files: Files,
    http: Http,
    binding: Option<ExternalAccountKey>,
    certificate: Arc<Certificate>,
    challenges: Challenges,
    orders: IntCounterVec,
    /// Why the last order came to nothing.
    trouble: Mutex<Option<Arc<AcmeError>>>,
}

/// Why there is no certificate yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoCertificate {
    #[error("there is no certificate yet: {0}")]
    Failed(#[source] Arc<AcmeError>),
    #[error("there is no certificate yet: {0} is asked for one")]
    Asked(String),
}

/// Where the certificate is kept, chain and key in one file.
pub(super) fn path(config: &config::Acme, state_dir: &str) -> PathBuf {
    Files::new(Path::new(state_dir), &config.directory).certificate
}

impl Acme {
    /// For the certificate at [`path`] on a listener with this configuration.
    pub(super) async fn new(
        config: config::Acme,
        net: config::Net,
        state_dir: &str,
        certificate: Arc<Certificate>,
        tls: &ServerConfig,
        metrics: &Metrics,
    ) -> Result<Self, Invalid> {
        let ca = match config.ca.as_str() {
            "" => None,
            path => Some(read_file(path).map_err(|error| Invalid::new(key!(config::Acme, ca), error))?),
        };
        let http = Http::new(&config, ca.as_deref()).map_err(|error| Invalid::new(key!(config::Acme, ca), error))?;
        if config.challenge == Challenge::Http01 {
            let bound = listener::bind(&config.http_listen, &net).await;
            bound.map_err(|error| Invalid::new(key!(config::Acme, http_listen), error))?;
        }
        Ok(Self {
            files: Files::new(Path::new(state_dir), &config.directory),
            http,
            binding: binding(&config)?,
            certificate,
            challenges: Challenges::new(tls),
            orders: metrics.counters("httvps_acme_orders_total", "Certificates ordered, by outcome", &["outcome"]),
            trouble: Mutex::default(),
            config,
            net,
        })
    }

    /// How connections are to be served while the directory looks for answers on them.
    pub(super) fn validating(&self) -> Option<Arc<ServerConfig>> {
        self.challenges.config()
    }

    /// Whether there is a certificate to serve.
    pub(super) fn is_there(&self) -> Result<(), NoCertificate> {
        if self.certificate.validity().is_some() {
            return Ok(());
        }
        let asked = || NoCertificate::Asked(self.config.directory.clone());
        Err(self.trouble().clone().map_or_else(asked, NoCertificate::Failed))
    }

    /// What somebody should look after.
    pub(super) fn complaint(&self) -> Option<String> {
        self.trouble().as_ref().map(|reason| format!("the certificate cannot be renewed: {reason}"))
    }

    fn trouble(&self) -> MutexGuard<'_, Option<Arc<AcmeError>>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Obtains and renews until drained. At SIGHUP what waits is tried at once.
    pub(super) async fn run(&self, clock: &ControlClock, shutdown: &Shutdown) {
        let mut hangup = Hangup::new();
        let mut pause = self.config.retry_min;
        loop {
            let due = self.due_in(clock.now());
            let wait = if due.is_zero() {
                let outcome = tokio::select! {
                    () = shutdown.draining() => return,
                    outcome = Box::pin(self.renew()) => outcome,
                };
                let is_due = || self.due_in(clock.now()).is_zero();
                let outcome = outcome.and_then(|()| if is_due() { Err(AcmeError::Unusable) } else { Ok(()) });
                let is_good = outcome.is_ok();
                self.tell(outcome);
                if is_good {
                    pause = self.config.retry_min;
                    pause
                } else {
                    let wait = pause.mul_f64(0.75 + fresh_fraction() / 4.0);
                    pause = pause.saturating_mul(2).min(self.config.retry_max);
                    wait
                }
            } else {
                due.min(LOOK_EVERY)
            };
            tokio::select! {
                () = shutdown.draining() => return,
                () = hangup.heard() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn tell(&self, outcome: Result<(), AcmeError>) {
        match outcome {
            Ok(()) => {
                self.orders.with_label_values(&["issued"]).inc();
                *self.trouble() = None;
            }
            Err(error) => {
                self.orders.with_label_values(&["failed"]).inc();
                let directory = &self.config.directory;
                tracing::warn!(directory, %error, "failed to obtain a certificate by ACME; retrying later");
                *self.trouble() = Some(Arc::new(error));
            }
        }
    }

    /// Zero without a certificate for these names.
    fn due_in(&self, now: OffsetDateTime) -> Duration {
        match self.certificate.validity() {
            Some((begins, ends)) if self.certificate.is_for(&self.config.names) => {
                until_renewal(begins, ends, self.config.renew_before, now)
            }
            _ => Duration::ZERO,
        }
    }

    async fn renew(&self) -> Result<(), AcmeError> {
        let issued = match self.order().await {
            Err(AcmeError::AccountGone) => {
                tracing::warn!("the ACME directory does not know the account; creating a new one");
                self.files.forget_account().map_err(AcmeError::Unkept)?;
                self.order().await?
            }
            outcome => outcome?,
        };
        let Issued { key, chain } = issued;
        self.files.keep_certificate(&key, &chain).map_err(AcmeError::Unkept)?;
        match self.certificate.look(true) {
            Look::Replaced | Look::Same => Ok(()),
            Look::Rejected => Err(AcmeError::Unusable),
        }
    }
}

fn binding(config: &config::Acme) -> Result<Option<ExternalAccountKey>, Invalid> {
    if config.eab_key.is_empty() {
        return Ok(None);
    }
    let key = BASE64_URL_SAFE_NO_PAD.decode(config.eab_key.expose().trim_end_matches('='));
    let key =
        key.map_err(|error| Invalid::new(key!(config::Acme, eab_key), format_args!("must be base64url: {error}")))?;
    Ok(Some(ExternalAccountKey::new(config.eab_key_id.clone(), &key)))
}

/// Short certificates are renewed when a third of their time is left.
fn until_renewal(begins: OffsetDateTime, ends: OffsetDateTime, before: Duration, now: OffsetDateTime) -> Duration {
    let before = time::Duration::try_from(before).unwrap_or(time::Duration::MAX);
    let renewal = ends.saturating_sub(before.min((ends - begins) / 3));
    Duration::try_from(renewal - now).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_time() {
        let (begins, day) = (datetime!(2026-01-01 00:00 UTC), time::Duration::DAY);
        let days = |count: u64| Duration::from_secs(count * 86_400);
        let due =
            |validity: i32, age: i32| until_renewal(begins, begins + day * validity, days(30), begins + day * age);
        assert_eq!((due(365, 0), due(365, 334), due(365, 335), due(365, 400)), (days(335), days(1), days(0), days(0)));
        assert_eq!((due(90, 0), due(90, 59), due(90, 60)), (days(60), days(1), days(0)));
        assert_eq!((due(6, 0), due(6, 3), due(6, 4)), (days(4), days(1), days(0)));
    }
}
