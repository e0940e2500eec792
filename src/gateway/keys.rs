//! The control plane's public keys, so that garbage is refused without asking it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use prometheus::IntCounterVec;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::control::ControlClient;
use super::control_clock::ControlClock;
use super::persist::{Name, Persist};
use crate::lifecycle::Shutdown;
use crate::token::{Claims, TokenError, Verifier};

/// Keys that refresh themselves, sooner when a token names an unknown one.
pub(crate) struct Keys {
    verifier: RwLock<Verifier>,
    /// Between two fetches at least.
    retry: Duration,
    clock: Arc<ControlClock>,
    checked: IntCounterVec,
    unknown: Notify,
    refreshed: watch::Sender<()>,
}

impl Keys {
    /// No keys yet; counts what is checked, by outcome.
    pub(crate) fn new(retry: Duration, clock: Arc<ControlClock>, checked: IntCounterVec) -> Self {
        Self {
            verifier: RwLock::default(),
            retry,
            clock,
            checked,
            unknown: Notify::new(),
            refreshed: watch::Sender::default(),
        }
    }

    /// Checks a token's signature and life; if its key is unknown, once more after the keys were fetched again.
    pub(crate) async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let verified = self.check(token);
        if !matches!(verified, Err(TokenError::UnknownKey)) {
            return verified;
        }
        let mut refreshed = self.refreshed.subscribe();
        self.unknown.notify_one();
        match tokio::time::timeout(self.retry * 2, refreshed.changed()).await {
            Ok(Ok(())) => self.check(token),
            Ok(Err(_)) | Err(_) => verified,
        }
    }

    /// Checks a token's signature and life by the keys that are known; an unknown one is asked for meanwhile.
    pub(crate) fn check_at_once(&self, token: &str) -> Result<Claims, TokenError> {
        let verified = self.check(token);
        if matches!(verified, Err(TokenError::UnknownKey)) {
            self.unknown.notify_one();
        }
        verified
    }

    fn check(&self, token: &str) -> Result<Claims, TokenError> {
        let checked = self.verifier.read().unwrap_or_else(PoisonError::into_inner).verify(token, self.clock.now());
        self.checked.with_label_values(&[if checked.is_ok() { "genuine" } else { "refused" }]).inc();
        checked
    }

    /// The device of a genuine token, whatever its age.
    pub(crate) fn owner(&self, token: &str) -> Option<Uuid> {
        let verifier = self.verifier.read().unwrap_or_else(PoisonError::into_inner);
        verifier.verify_any_age(token).ok().map(|claims| claims.sub)
    }

    /// Fetches the keys again.
    pub(crate) fn renew(&self) {
        self.unknown.notify_one();
    }

    /// Whether any key is known.
    pub(crate) fn is_ready(&self) -> bool {
        !self.verifier.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Takes keys.
    pub(super) fn replace(&self, set: &JwkSet) {
        *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = Verifier::new(set);
    }

    /// Keeps the keys fresh until drained; asks at most once every `gateway.jwks_retry`.
    pub(super) async fn run(&self, control: &ControlClient, persist: &Persist, every: Duration, shutdown: &Shutdown) {
        loop {
            let wait = match control.keys().await {
                Ok(set) => {
                    self.replace(&set);
                    persist.set(Name::Keys, &set);
                    self.refreshed.send_replace(());
                    every
                }
                Err(error) => {
                    error.log("signing keys not fetched");
                    self.refreshed.send_replace(());
                    self.retry
                }
            };
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(self.retry) => {}
            }
            tokio::select! {
                () = shutdown.draining() => return,
                () = self.unknown.notified() => {}
                () = tokio::time::sleep(wait.saturating_sub(self.retry)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::clock::ManualClock;
    use crate::gateway::control_clock::tests::config;
    use crate::gateway::metrics::GatewayMetrics;
    use crate::token::Issuer;

    #[test]
    fn a_token_is_good_for_its_life_and_a_minute_more() {
        let manual = ManualClock::at(datetime!(2026-11-28 12:00 UTC));
        let metrics = GatewayMetrics::new();
        let clock = ControlClock::new(manual.clock(), config(), &metrics);
        let keys = Keys::new(Duration::from_secs(1), Arc::new(clock), metrics.tokens);
        let issuer = Issuer::new(&[7; 32]).unwrap();
        keys.replace(issuer.key_set());
        let (device, issued_at) = (Uuid::now_v7(), manual.now().unix_timestamp());
        let token = issuer.issue(device, Uuid::now_v7(), issued_at, 3600).unwrap();
        manual.advance(Duration::from_mins(61));
        assert_eq!(keys.check_at_once(&token).map(|claims| claims.sub), Ok(device));
        manual.advance(Duration::from_secs(1));
        assert_eq!(keys.check_at_once(&token).map(|claims| claims.sub), Err(TokenError::Expired));
        assert_eq!(keys.owner(&token), Some(device));
    }
}
