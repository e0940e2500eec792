//! Why a device has no traffic: the findings, then what they were drawn from.

use serde_json::Value;
use time::OffsetDateTime;

use super::names::Names;
use super::output::{WIDTH, described, drawn};
use super::values::{NOTHING, member, plain};
use super::{columns, table};
use crate::cli::say;

const ROWS: [&str; 5] = ["device", "user", "subscription", "plan", "quota"];
const LISTS: [&str; 4] = ["sessions", "gateways", "nodes", "refusals"];
const INDENT: &str = "  ";

/// Writes it for a person, or with the API's values.
pub(super) fn print(answer: &Value, now: Option<OffsetDateTime>) {
    for finding in items(answer, "findings") {
        say(format_args!("{}: {}", plain(member(finding, "code")), plain(member(finding, "text"))));
    }
    for section in ROWS {
        block(section, row(member(answer, section), now));
    }
    for section in LISTS {
        block(section, list(section, items(answer, section), now));
    }
}

fn block(section: &str, lines: Vec<String>) {
    say(format_args!("\n{section}"));
    if lines.is_empty() {
        say(format_args!("{INDENT}{NOTHING}"));
    }
    for line in lines {
        say(format_args!("{INDENT}{line}"));
    }
}

fn row(row: &Value, now: Option<OffsetDateTime>) -> Vec<String> {
    let Some(fields) = row.as_object() else { return Vec::new() };
    match now {
        Some(now) => described(fields, &Names::default(), now),
        None => fields.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect(),
    }
}

fn list(section: &str, items: &[Value], now: Option<OffsetDateTime>) -> Vec<String> {
    let Some(now) = now.filter(|_| !items.is_empty()) else { return items.iter().map(line).collect() };
    let names = Names::default();
    let columns = columns::of(("why", section)).iter().map(|column| drawn(column, items, &names, true, now));
    table::lines(&columns.collect::<Vec<_>>(), Some(WIDTH - INDENT.len()))
}

fn items<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    member(answer, name).as_array().map(Vec::as_slice).unwrap_or_default()
}

fn line(item: &Value) -> String {
    let Some(fields) = item.as_object() else { return plain(item) };
    let shown = fields.iter().filter(|(_, value)| !value.is_null());
    let words: Vec<String> = shown.map(|(name, value)| format!("{name}={}", plain(value))).collect();
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_person_gets_tables_of_what_was_looked_at() {
        let session = json!({
            "id": "01a202b2-c69c-78a2-814e-3f37949c401e", "state": "ended", "started_at": "2026-11-22T10:00:00.455102Z",
            "ended_at": "2026-11-22T10:04:41Z", "gateway": "gw-fra-1", "node": "fra-1", "silent": false,
            "bytes_up": 1_048_576, "bytes_down": 52_428_800,
        });
        let now = datetime!(2026-11-22 12:05:00 UTC);
        assert_eq!(
            list("sessions", std::slice::from_ref(&session), Some(now)),
            [
                "ID        STATE  GATEWAY   NODE     BEGAN    ENDED      UP     DOWN",
                "949c401e  ended  gw-fra-1  fra-1  2 h ago  2 h ago  1.0 MB  52.4 MB",
            ]
        );
        assert!(list("sessions", &[session], None)[0].contains("  bytes_up=1048576  "));
        for section in LISTS {
            assert!(!columns::of(("why", section)).is_empty());
            assert!(list(section, &[], Some(now)).is_empty());
        }
        assert_eq!(row(&json!({ "status": "banned" }), Some(now)), ["status:  banned"]);
    }
}
