//! Points in time, as the API writes them.

use std::time::Duration;

use httvps::clock::Clock;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(crate) fn now() -> OffsetDateTime {
    Clock::system().now().replace_nanosecond(0).unwrap()
}

pub(crate) fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap()
}

pub(crate) fn parse_rfc3339(value: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(value.as_str().unwrap(), &Rfc3339).unwrap()
}

pub(crate) fn days(count: u64) -> Duration {
    Duration::from_secs(count * 86_400)
}
