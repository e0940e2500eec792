//! Several certificates on one listener, by the name that clients ask for (docs/04, "Certificates").

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGaugeVec;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;

use super::Certificate;
use super::names::is_below;
use crate::config;
use crate::lifecycle::{Hangup, Shutdown};
use crate::metrics::Metrics;

/// What is shown of a certificate: seconds until it expires, if there is one, and whether its files are of no use.
type Figures = (Option<i64>, bool);

/// The certificates of a listener: clients get that of the name they ask for, or the default one.
pub struct Certificates {
    default: Arc<Certificate>,
    others: Vec<Arc<Certificate>>,
    check_every: Duration,
    expiry: IntGaugeVec,
    unusable: IntGaugeVec,
    /// The names of the last figures.
    shown: Mutex<BTreeMap<String, Figures>>,
}

impl Certificates {
    /// The default certificate, and those of other names.
    pub fn new(
        default: Arc<Certificate>,
        others: Vec<Arc<Certificate>>,
        config: &config::Net,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let gauges = |name: &str, help: &str| metrics.gauges(name, help, &["name"]);
        Arc::new(Self {
            default,
            others,
            check_every: config.certificate_check,
            expiry: gauges("httvps_certificate_expiry_seconds", "Until the certificate expires, negative after"),
            unusable: gauges("httvps_certificate_unusable", "Whether the certificate's files cannot be used"),
            shown: Mutex::default(),
        })
    }

    /// Logs what somebody should look after, at a time.
    pub fn warn(&self, now: OffsetDateTime) {
        for complaint in self.complaints(now) {
            tracing::warn!("{complaint}");
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        std::iter::once(&self.default).chain(&self.others)
    }

    /// Looks at the files every `net.certificate_check`, and at SIGHUP, until drained.
    pub async fn watch(&self, shutdown: &Shutdown) {
        if !self.all().any(|certificate| certificate.has_files()) {
            return;
        }
        let mut hangup = Hangup::new();
        loop {
            let asked = tokio::select! {
                () = shutdown.draining() => return,
                () = hangup.heard() => true,
                () = tokio::time::sleep(self.check_every), if !self.check_every.is_zero() => false,
            };
            let all: Vec<_> = self.all().cloned().collect();
            let look = move || {
                for certificate in all {
                    certificate.look(asked);
                }
            };
            if let Err(error) = tokio::task::spawn_blocking(look).await {
                tracing::error!(%error, "failed to check the certificate files");
            }
        }
    }

    /// From when to when all of them are valid; none while there are none.
    pub fn validity(&self) -> Option<(OffsetDateTime, OffsetDateTime)> {
        let all = self.all().filter_map(|certificate| certificate.validity());
        all.reduce(|(begins, ends), (others_begins, others_ends)| (begins.max(others_begins), ends.min(others_ends)))
    }

    /// Sets the gauges for a time. Of two certificates with the same name the one that expires first is shown.
    pub fn show(&self, now: OffsetDateTime) {
        let mut figures = BTreeMap::<String, Figures>::new();
        for certificate in self.all() {
            let Some(name) = certificate.name() else { continue };
            let left = certificate.validity().map(|(_, ends)| (ends - now).whole_seconds());
            let figure = figures.entry(name).or_default();
            *figure = (figure.0.into_iter().chain(left).min(), figure.1 || certificate.is_unusable());
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, (left, unusable)) in &figures {
            if let Some(left) = left {
                self.expiry.with_label_values(&[name]).set(*left);
            }
            self.unusable.with_label_values(&[name]).set((*unusable).into());
        }
        for gone in shown.keys().filter(|name| !figures.contains_key(*name)) {
            for gauges in [&self.expiry, &self.unusable] {
                if let Err(error) = gauges.remove_label_values(&[gone]) {
                    tracing::debug!(%error, "gauge was already removed");
                }
            }
        }
        *shown = figures;
    }

    /// What somebody should look after, at a time.
    pub fn complaints(&self, now: OffsetDateTime) -> Vec<String> {
        self.all().flat_map(|certificate| certificate.complaints(now)).collect()
    }

    /// The one for a name, rather by the name itself than by a wildcard; the default one for others.
    fn of(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        if self.others.is_empty() {
            return self.default.served().map(|served| Arc::clone(&served.key));
        }
        let mut found = None;
        for served in self.all().filter_map(|certificate| certificate.served()) {
            let Some(name) = name else { break };
            if served.names.iter().any(|known| known == name) {
                return Some(Arc::clone(&served.key));
            }
            if found.is_none() && is_below(&served.names, name) {
                found = Some(Arc::clone(&served.key));
            }
        }
        found.or_else(|| self.default.served().map(|served| Arc::clone(&served.key)))
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(hello.server_name())
    }
}

#[cfg(test)]
mod tests;
