//! Gateways by their tokens, remembered for a moment: each of their requests needs them (docs/02, "Authentication").

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::control::db::{Db, DbError, dispatch};
use crate::control::model::{Gateway, Region};

const MOST: usize = 10_000;

/// A gateway and the regions it may use.
pub(crate) struct Known {
    pub(crate) gateway: Gateway,
    pub(crate) exits: Arc<[Region]>,
    at: Instant,
}

/// The gateways that asked lately, by the hashes of their tokens.
pub(crate) struct GatewayCache {
    known: Mutex<HashMap<String, Arc<Known>>>,
    fresh: Duration,
}

impl GatewayCache {
    /// Remembers each for so long.
    pub(crate) fn new(fresh: Duration) -> Self {
        Self { known: Mutex::default(), fresh }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gateway whose token hashes to `hash`.
    pub(crate) async fn find(&self, db: &Db, hash: &str) -> Result<Option<Arc<Known>>, DbError> {
        let known = self.known().get(hash).map(Arc::clone);
        if let Some(known) = known.filter(|known| known.at.elapsed() < self.fresh) {
            return Ok(Some(known));
        }
        let at = Instant::now();
        let mut conn = db.read().await?;
        let Some(gateway) = dispatch!(&mut conn, admission::gateway(hash))? else {
            self.known().remove(hash);
            return Ok(None);
        };
        let exits = dispatch!(&mut conn, admission::exit_regions(&gateway))?.into();
        drop(conn);
        if gateway.token_hash == hash && gateway.old_token_hash.is_some() {
            dispatch!(&mut db.get().await?, admission::end_old_token(&gateway))?;
        }
        let found = Arc::new(Known { gateway, exits, at });
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.retain(|_, other| other.gateway.id != found.gateway.id);
        known.insert(hash.to_owned(), Arc::clone(&found));
        Ok(Some(found))
    }

    /// Something of a gateway has changed.
    pub(crate) fn forget(&self) {
        self.known().clear();
    }
}
