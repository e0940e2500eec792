//! When devices were there, written together: each admission has something to say of its device (docs/09,
//! "validate-device").

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::control::db::{Db, DbError, dispatch};
use crate::control::model::Sighting;
use crate::control::model::id::DeviceId;
use crate::lifecycle::Shutdown;

/// Devices of one statement.
const BATCH: usize = 1_000;

/// What the database does not know yet.
#[derive(Default)]
pub(crate) struct LastSeen(Mutex<BTreeMap<DeviceId, Sighting>>);

impl LastSeen {
    fn known(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Sighting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device was there. Of two sightings the later one counts, with what is known of the version.
    pub(crate) fn note(&self, device: DeviceId, (at, version): Sighting) {
        let mut all = self.known();
        let known = all.entry(device).or_insert((at, None));
        if known.0 > at {
            known.1 = known.1.take().or(version);
        } else {
            *known = (at, version.or(known.1.take()));
        }
    }

    /// Writes until drained, and once more then.
    pub(crate) async fn run(&self, db: &Db, every: Duration, shutdown: &Shutdown) {
        let mut interval = interval(every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let over = tokio::select! {
                () = shutdown.draining() => true,
                _ = interval.tick() => false,
            };
            if let Err(error) = self.write(db).await {
                tracing::warn!(%error, "when devices were there was not written");
            }
            if over {
                return;
            }
        }
    }

    /// What cannot be written waits.
    async fn write(&self, db: &Db) -> Result<(), DbError> {
        let waiting: Vec<(DeviceId, Sighting)> = std::mem::take(&mut *self.known()).into_iter().collect();
        for (at, batch) in waiting.chunks(BATCH).enumerate() {
            let written = match db.get().await {
                Ok(mut conn) => dispatch!(&mut conn, admission::record_last_seen(batch)).map_err(DbError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                for (device, sighting) in waiting.iter().skip(at * BATCH).cloned() {
                    self.note(device, sighting);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::control::model::types::Time;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_later_sighting_counts_and_a_known_version_stays() {
        let (seen, device) = (LastSeen::default(), DeviceId::fresh());
        let now = Time(datetime!(2026-11-28 12:00 UTC));
        let later = now.after(SECOND);
        let known = || seen.known().get(&device).cloned().unwrap();
        seen.note(device, (now, Some("2".into())));
        seen.note(device, (later, None));
        assert_eq!(known(), (later, Some("2".into())));
        seen.note(device, (later.after(SECOND), Some("3".into())));
        seen.note(device, (now, Some("1".into())));
        assert_eq!(known(), (later.after(SECOND), Some("3".into())));
    }
}
