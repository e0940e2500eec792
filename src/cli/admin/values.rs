//! The API's values as people read them.

use bytesize::ByteSize;
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, UtcOffset};

use crate::cli::terminal;

/// What stands for nothing.
pub(super) const NOTHING: &str = "-";
const NO_LIMIT: &str = "no limit";
const LIMITS: [&str; 4] = ["max_devices", "max_sessions", "traffic_limit_gb", "rate_limit_mbps"];
const MOMENTS: [&str; 6] = ["_at", "_until", "_begins", "_ends", "_start", "_end"];
/// Currencies without a minor unit, and those with a thousand of them (ISO 4217).
const WHOLE: [&str; 16] =
    ["BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF"];
const THOUSANDTHS: [&str; 7] = ["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"];

/// A member of a row; null if it has none.
pub(super) fn member<'a>(row: &'a Value, name: &str) -> &'a Value {
    row.get(name).unwrap_or(&Value::Null)
}

/// A value as it is: lists with commas, objects as JSON.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => terminal::value(text).into_owned(),
        Value::Null => NOTHING.into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => terminal::escaped_json(&value.to_string()).into_owned(),
    }
}

/// A value of a field as a person reads it.
pub(super) fn human(name: &str, value: &Value, now: OffsetDateTime) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    if let Value::Object(fields) = value {
        return match (fields.get("from"), fields.get("to")) {
            (Some(from), Some(to)) if fields.len() == 2 => {
                format!("{} -> {}", human(name, from, now), human(name, to, now))
            }
            _ if last == "delivery" => delivery(value),
            _ => plain(value),
        };
    }
    let moment = last == "time" || last == "lease_period" || MOMENTS.iter().any(|end| last.ends_with(end));
    if moment && let Some(at) = moment_of(value) {
        return format!("{} ({})", minute(at), distance(at, now));
    }
    match last {
        _ if value.is_null() && LIMITS.contains(&last) => NO_LIMIT.into(),
        "traffic_limit_gb" => gigabytes(value),
        "rate_limit_mbps" => rate(value),
        _ if last.starts_with("bytes_") || last.ends_with("_bytes") => bytes(value),
        _ if value.is_boolean() => yes_no(value),
        _ if value.as_str() == Some("") => NOTHING.into(),
        _ if value.as_array().is_some_and(Vec::is_empty) => NOTHING.into(),
        _ => plain(value),
    }
}

/// How far the news of a change has come.
pub(super) fn delivery(value: &Value) -> String {
    let count = |name: &str| member(value, name).as_i64().unwrap_or_default();
    format!("acked {} of {} in {} ms", count("acked"), count("of"), count("ms"))
}

fn moment_of(value: &Value) -> Option<OffsetDateTime> {
    let at = OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()?;
    Some(at.to_offset(UtcOffset::UTC))
}

/// A time in UTC, to the minute.
pub(super) fn time(value: &Value) -> String {
    moment_of(value).map_or_else(|| plain(value), minute)
}

fn minute(at: OffsetDateTime) -> String {
    at.format(format_description!("[year]-[month]-[day] [hour]:[minute]")).unwrap_or_else(|_| at.to_string())
}

/// How long ago, or in what time.
pub(super) fn age(value: &Value, now: OffsetDateTime) -> String {
    moment_of(value).map_or_else(|| plain(value), |at| distance(at, now))
}

fn distance(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let distance = now - at;
    let length = length(distance.abs());
    if distance.is_negative() { format!("in {length}") } else { format!("{length} ago") }
}

fn length(length: Duration) -> String {
    let seconds = length.whole_seconds();
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes in decimal units.
pub(super) fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| plain(value), |bytes| ByteSize::b(bytes).display().si().to_string())
}

pub(super) fn gigabytes(value: &Value) -> String {
    value.as_f64().map_or_else(|| limit(value), |gigabytes| format!("{gigabytes} GB"))
}

pub(super) fn rate(value: &Value) -> String {
    value.as_i64().map_or_else(|| limit(value), |rate| format!("{rate} Mbit/s"))
}

/// A number that may be missing because there is no limit.
pub(super) fn limit(value: &Value) -> String {
    if value.is_null() { NO_LIMIT.into() } else { plain(value) }
}

pub(super) fn yes_no(value: &Value) -> String {
    match value.as_bool() {
        Some(true) => "yes".into(),
        Some(false) => "no".into(),
        None => plain(value),
    }
}

/// Minor units in the units of their currency.
pub(super) fn price(amount: &Value, currency: &Value) -> String {
    let (Some(amount), Some(currency)) = (amount.as_i64(), currency.as_str()) else { return plain(amount) };
    let digits: usize = match currency {
        _ if WHOLE.contains(&currency) => 0,
        _ if THOUSANDTHS.contains(&currency) => 3,
        _ => 2,
    };
    let text = format!("{amount:0>least$}", least = digits + 1);
    let (whole, minor) = text.split_at_checked(text.len() - digits).unwrap_or((&text, ""));
    let point = if minor.is_empty() { "" } else { "." };
    format!("{whole}{point}{minor} {}", terminal::value(currency))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-28 21:05:30 UTC);

    #[test]
    fn times_are_in_utc_and_beside_their_distance() {
        for (value, expected) in [
            (json!("2026-11-28T21:05:18Z"), "2026-11-28 21:05 (12 s ago)"),
            (json!("2026-11-28T23:05:30+03:00"), "2026-11-28 20:05 (60 min ago)"),
            (json!("2026-12-28T21:05:30Z"), "2026-12-28 21:05 (in 30 d)"),
            (json!("soon"), "soon"),
            (Value::Null, "-"),
        ] {
            assert_eq!(human("valid_until", &value, NOW), expected);
        }
        assert_eq!(age(&json!("2026-11-28T01:05:30Z"), NOW), "20 h ago");
        assert_eq!(time(&json!("0000-01-01T00:00:00Z")), "0000-01-01 00:00");
        assert_eq!(human("name", &json!("2026-11-28T21:05:18Z"), NOW), "2026-11-28T21:05:18Z");
    }

    #[test]
    fn amounts_have_their_units() {
        for (name, value, expected) in [
            ("bytes_down", json!(52_428_800), "52.4 MB"),
            ("quota.used_bytes", json!(1_303_974_707_u64), "1.3 GB"),
            ("bytes_up", json!(0), "0 B"),
            ("traffic_limit_gb", json!(0.5), "0.5 GB"),
            ("traffic_limit_gb", Value::Null, "no limit"),
            ("rate_limit_mbps", json!(50), "50 Mbit/s"),
            ("max_devices", Value::Null, "no limit"),
            ("effect.max_devices", json!({ "from": 5, "to": null }), "5 -> no limit"),
            ("draining", json!(false), "no"),
            ("exit_regions", json!(["eu-1", "ru-1"]), "eu-1,ru-1"),
            ("exit_regions", json!([]), "-"),
            ("names", json!({ "ru": "\u{202e}" }), "{\"ru\":\"\\u202e\"}"),
            ("delivery", json!({ "acked": 3, "of": 4, "ms": 40 }), "acked 3 of 4 in 40 ms"),
        ] {
            assert_eq!(human(name, &value, NOW), expected, "{name}");
        }
    }

    #[test]
    fn prices_are_in_the_units_of_their_currency() {
        for (amount, currency, expected) in
            [(499, "EUR", "4.99 EUR"), (5, "USD", "0.05 USD"), (500, "JPY", "500 JPY"), (1, "KWD", "0.001 KWD")]
        {
            assert_eq!(price(&json!(amount), &json!(currency)), expected);
        }
        assert_eq!(price(&Value::Null, &Value::Null), "-");
    }
}
