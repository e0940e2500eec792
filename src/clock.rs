//! Wall time: read in one place, passed in everywhere else (docs/01, "Time").

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use time::OffsetDateTime;

/// Where wall time comes from. Clones tell the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(ManualClock),
}

impl Clock {
    /// The system's clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// The time, UTC.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> OffsetDateTime {
        match &self.0 {
            Source::System => OffsetDateTime::now_utc(),
            Source::Manual(manual) => manual.now(),
        }
    }

    /// The time in whole seconds since 1970.
    pub fn unix_seconds(&self) -> i64 {
        self.now().unix_timestamp()
    }
}

/// Time that stands still until a test moves it.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<RwLock<OffsetDateTime>>);

impl ManualClock {
    /// Time standing at a moment.
    pub fn at(moment: OffsetDateTime) -> Self {
        Self(Arc::new(RwLock::new(moment)))
    }

    /// A clock that tells this time.
    pub fn clock(&self) -> Clock {
        Clock(Source::Manual(self.clone()))
    }

    /// Where time stands.
    pub fn now(&self) -> OffsetDateTime {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves time to a moment, which may be earlier.
    pub fn set(&self, moment: OffsetDateTime) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    /// Moves time on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *now = now.saturating_add(by.try_into().unwrap_or(time::Duration::MAX));
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn manual_time_moves_when_it_is_moved_and_for_all_clones() {
        let noon = datetime!(2026-11-28 12:00 UTC);
        let manual = ManualClock::at(noon);
        let (clock, other) = (manual.clock(), manual.clock().clone());
        assert_eq!((clock.now(), other.unix_seconds()), (noon, noon.unix_timestamp()));
        manual.advance(Duration::from_secs(90));
        assert_eq!((clock.now(), other.now()), (noon + time::Duration::seconds(90), manual.now()));
        manual.set(noon - time::Duration::HOUR);
        assert_eq!(other.now(), noon - time::Duration::HOUR);
    }

    #[test]
    fn the_systems_clock_is_the_default_and_moves_by_itself() {
        let before = Clock::system().now();
        assert!(Clock::default().now() >= before && before > datetime!(2026-01-01 0:00 UTC));
    }
}
