//! The control plane's time as the gateway knows it (docs/04, "Clocks").

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use prometheus::Gauge;
use time::OffsetDateTime;

use super::metrics::GatewayMetrics;
use crate::clock::Clock;
use crate::config;

/// The control plane's time, carried on by the monotonic clock, so that a step of the system's clock does not matter.
pub(crate) struct ControlClock {
    system: Clock,
    known: RwLock<Option<Known>>,
    config: config::Clock,
    gauge: Gauge,
}

#[derive(Clone, Copy)]
struct Known {
    time: OffsetDateTime,
    at: Instant,
    /// Measured by this process, and not one that was before it.
    fresh: bool,
}

impl ControlClock {
    /// A clock that trusts the system's until the control plane has answered; offsets from `clock.warn_after` on are named.
    pub(crate) fn new(system: Clock, config: config::Clock, metrics: &GatewayMetrics) -> Self {
        let gauge = metrics.clock_offset.with_label_values(&["control"]);
        Self { system, known: RwLock::default(), config, gauge }
    }

    fn known(&self) -> Option<Known> {
        *self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock of this host.
    pub(crate) fn system(&self) -> &Clock {
        &self.system
    }

    /// The control plane's time, as far as it is known.
    pub(crate) fn now(&self) -> OffsetDateTime {
        self.known().map_or_else(|| self.system.now(), |known| known.time + known.at.elapsed())
    }

    /// Milliseconds by which the system's clock is ahead of the control plane's, negative if it is behind; `None` before
    /// the control plane has answered this process.
    pub(crate) fn offset(&self) -> Option<i64> {
        self.known().filter(|known| known.fresh)?;
        Some(self.ahead())
    }

    /// As [`Self::offset`], also by what an earlier process had measured.
    pub(super) fn ahead(&self) -> i64 {
        millis(self.system.now() - self.now())
    }

    /// Takes what an earlier process had measured, until there is a measurement.
    pub(super) fn resume(&self, now: OffsetDateTime) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert(Known { time: now, at: Instant::now(), fresh: false });
    }

    /// Takes the control plane's time from an answer to what was asked at a moment, taken to be half a round trip old.
    pub(super) fn measured(&self, server_time: OffsetDateTime, asked_at: Instant) {
        let at = Instant::now();
        let round_trip = at.saturating_duration_since(asked_at);
        let before = self.offset();
        if round_trip > self.config.round_trip_max && before.is_some() {
            return;
        }
        let known = Known { time: server_time + round_trip / 2, at, fresh: true };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known);
        let offset = self.ahead();
        self.show();
        if self.is_off(offset) && !before.is_some_and(|before| self.is_off(before)) {
            tracing::warn!(offset_ms = offset, "{}", Self::advice(offset));
        }
    }

    /// Sets the metric.
    pub(super) fn show(&self) {
        if let Some(offset) = self.offset() {
            self.gauge
                .set(Duration::from_millis(offset.unsigned_abs()).as_secs_f64().copysign(f64::from(sign(offset))));
        }
    }

    /// What is to be done if the offset is too large.
    pub(super) fn complaint(&self) -> Option<String> {
        self.offset().filter(|offset| self.is_off(*offset)).map(Self::advice)
    }

    fn is_off(&self, offset: i64) -> bool {
        Duration::from_millis(offset.unsigned_abs()) >= self.config.warn_after
    }

    fn advice(offset: i64) -> String {
        let direction = if offset < 0 { "behind" } else { "ahead of" };
        let (seconds, tenths) = (offset.unsigned_abs() / 1000, offset.unsigned_abs() % 1000 / 100);
        format!("this host's clock is {seconds}.{tenths} s {direction} the control plane's: synchronize both by NTP")
    }
}

fn sign(offset: i64) -> i8 {
    if offset < 0 { -1 } else { 1 }
}

fn millis(duration: time::Duration) -> i64 {
    i64::try_from(duration.whole_milliseconds()).unwrap_or(if duration.is_negative() { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
pub(super) mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::clock::ManualClock;

    const NOON: OffsetDateTime = datetime!(2026-11-28 12:00 UTC);

    pub(in crate::gateway) fn config() -> config::Clock {
        config::Source::with::<&str, &str>([]).unwrap().section().unwrap()
    }

    fn clocks() -> (ManualClock, ControlClock) {
        let manual = ManualClock::at(NOON);
        let clock = ControlClock::new(manual.clock(), config(), &GatewayMetrics::new());
        (manual, clock)
    }

    fn is_near(a: i64, b: i64) -> bool {
        a.abs_diff(b) < 1000
    }

    #[test]
    fn the_control_planes_time_is_taken_and_carried_on() {
        let (_, clock) = clocks();
        assert_eq!((clock.now(), clock.offset(), clock.complaint()), (NOON, None, None));
        let ahead = NOON + Duration::from_secs(90);
        clock.measured(ahead, Instant::now());
        assert!(clock.offset().is_some_and(|offset| is_near(offset, -90_000)), "{:?}", clock.offset());
        assert!(is_near(millis(clock.now() - ahead), 0));
        let complaint = clock.complaint().unwrap();
        assert!(complaint.contains(" s behind the control plane's"), "{complaint}");
        assert!((clock.gauge.get() + 90.0).abs() < 1.0, "{}", clock.gauge.get());
        clock.measured(NOON - Duration::from_secs(4), Instant::now());
        assert!(clock.offset().is_some_and(|offset| is_near(offset, 4000)) && clock.complaint().is_none());
    }

    #[test]
    fn a_step_of_the_systems_clock_is_an_offset_and_moves_nothing_else() {
        let (manual, clock) = clocks();
        manual.advance(Duration::from_secs(7));
        assert_eq!(clock.now(), NOON + Duration::from_secs(7), "nothing else is known");
        clock.measured(NOON, Instant::now());
        manual.advance(Duration::from_hours(1));
        assert!(is_near(millis(clock.now() - NOON), 0), "{}", clock.now());
        assert!(clock.offset().is_some_and(|offset| is_near(offset, 3_607_000)), "{:?}", clock.offset());
        manual.set(NOON - Duration::from_hours(1));
        assert!(clock.offset().is_some_and(|offset| is_near(offset, -3_600_000)), "{:?}", clock.offset());
    }

    #[test]
    fn half_the_round_trip_is_added_and_a_long_one_believed_only_if_nothing_is_known() {
        let asked_at = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let (_, clock) = clocks();
        clock.measured(NOON, asked_at);
        assert!(clock.offset().is_some_and(|offset| is_near(offset, -5000)), "{:?}", clock.offset());
        clock.measured(NOON + Duration::from_hours(1), asked_at);
        assert!(clock.offset().is_some_and(|offset| is_near(offset, -5000)));
    }

    #[test]
    fn what_an_earlier_process_measured_corrects_until_there_is_more() {
        let (_, clock) = clocks();
        clock.resume(NOON + Duration::from_secs(90));
        assert!(is_near(clock.ahead(), -90_000) && clock.offset().is_none());
        clock.measured(NOON, Instant::now());
        clock.resume(NOON + Duration::from_secs(90));
        assert!(clock.offset().is_some_and(|offset| is_near(offset, 0)));
    }
}
