//! The control plane's public keys, so that garbage is refused without asking it.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::control::ControlClient;
use crate::lifecycle::Shutdown;
use crate::token::{Claims, TokenError, Verifier};

const RETRY: Duration = Duration::from_secs(1);

/// Keys that refresh themselves, sooner when a token names an unknown one.
#[derive(Default)]
pub(crate) struct Keys {
    verifier: RwLock<Verifier>,
    unknown: Notify,
}

impl Keys {
    /// Checks a token's signature and life.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let verified = self.verifier.read().unwrap_or_else(PoisonError::into_inner).verify(token);
        if matches!(verified, Err(TokenError::UnknownKey)) {
            self.unknown.notify_one();
        }
        verified
    }

    /// Whether any key is known.
    pub(crate) fn is_ready(&self) -> bool {
        !self.verifier.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Keeps the keys fresh until drained; asks at most once a second.
    pub(crate) async fn run(&self, control: &ControlClient, every: Duration, shutdown: &Shutdown) {
        loop {
            let wait = match control.keys().await {
                Ok(set) => {
                    *self.verifier.write().unwrap_or_else(PoisonError::into_inner) = Verifier::new(&set);
                    every
                }
                Err(error) => {
                    tracing::warn!(%error, "signing keys not fetched");
                    RETRY
                }
            };
            tokio::select! {
                () = shutdown.draining() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
            tokio::select! {
                () = shutdown.draining() => return,
                () = self.unknown.notified() => {}
                () = tokio::time::sleep(wait.saturating_sub(RETRY)) => {}
            }
        }
    }
}
