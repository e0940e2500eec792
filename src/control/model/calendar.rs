//! Where billing periods begin and end (docs/02, "Periods").

use std::time::Duration;

use jiff::tz::TimeZone;
use time::OffsetDateTime;

use crate::control::model::types::Time;

/// So many days of 24 hours, which is what is sold and counted; months follow a calendar.
pub fn days(count: u32) -> Duration {
    Duration::from_hours(24).saturating_mul(count)
}

/// A billing period; without an end it lasts as long as the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period {
    pub start: Time,
    pub end: Option<Time>,
}

impl Period {
    /// The period of so many days, counted from a beginning, that a moment falls into.
    pub fn rolling(begun: Time, days: i32, at: Time) -> Self {
        let length = self::days(days.max(1).unsigned_abs());
        let length = time::Duration::try_from(length).unwrap_or(time::Duration::MAX);
        let passed = (at.0 - begun.0).whole_seconds().div_euclid(length.whole_seconds());
        let start = begun.0.saturating_add(length * i32::try_from(passed).unwrap_or(0));
        Self { start: Time(start), end: Some(Time(start.saturating_add(length))) }
    }
}

/// Knows when months begin in a time zone.
#[derive(Clone, Debug)]
pub struct Calendar(TimeZone);

impl Default for Calendar {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl Calendar {
    /// The calendar of an IANA time zone.
    pub fn new(zone: &str) -> Result<Self, jiff::Error> {
        TimeZone::get(zone).map(Self)
    }

    /// The calendar month that a moment falls into.
    pub fn month(&self, at: Time) -> Period {
        self.try_month(at).unwrap_or(Period { start: at, end: None })
    }

    fn try_month(&self, at: Time) -> Option<Period> {
        let there = jiff::Timestamp::from_second(at.0.unix_timestamp()).ok()?.to_zoned(self.0.clone());
        let first = there.date().first_of_month();
        let next = first.last_of_month().tomorrow().ok()?;
        let moment = |date: jiff::civil::Date| {
            let begins = date.to_zoned(self.0.clone()).ok()?.timestamp().as_second();
            OffsetDateTime::from_unix_timestamp(begins).ok().map(Time)
        };
        Some(Period { start: moment(first)?, end: Some(moment(next)?) })
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn months_begin_at_local_midnight() {
        let berlin = Calendar::new("Europe/Berlin").unwrap();
        let october =
            Period { start: Time(datetime!(2026-09-30 22:00 UTC)), end: Some(Time(datetime!(2026-10-31 23:00 UTC))) };
        for at in [datetime!(2026-09-30 22:00 UTC), datetime!(2026-10-25 1:30 UTC), datetime!(2026-10-31 22:59:59 UTC)]
        {
            assert_eq!(berlin.month(Time(at)), october);
        }
        assert_eq!(berlin.month(Time(datetime!(2026-10-31 23:00 UTC))).start, october.end.unwrap());
        let utc = Calendar::default().month(Time(datetime!(2026-12-31 23:59:59 UTC)));
        assert_eq!((utc.start.0, utc.end.unwrap().0), (datetime!(2026-12-01 0:00 UTC), datetime!(2027-01-01 0:00 UTC)));
        assert!(Calendar::new("Mars/Olympus").is_err());
    }

    #[test]
    fn a_day_has_24_hours() {
        assert_eq!((days(0), days(1), days(30)), (Duration::ZERO, Duration::from_hours(24), Duration::from_hours(720)));
    }

    #[test]
    fn rolling_periods_follow_each_other() {
        let begun = Time(datetime!(2026-11-05 10:00 UTC));
        let third = Period::rolling(begun, 7, Time(datetime!(2026-11-19 10:00 UTC)));
        assert_eq!(third.start.0, datetime!(2026-11-19 10:00 UTC));
        assert_eq!(third.end.unwrap().0, datetime!(2026-11-26 10:00 UTC));
        assert_eq!(Period::rolling(begun, 7, Time(datetime!(2026-11-19 9:59:59 UTC))).end, Some(third.start));
    }
}
