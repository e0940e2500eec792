use serde_json::json;
use time::macros::datetime;
use unicode_width::UnicodeWidthStr;

use super::super::resources::RESOURCES;
use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-28 21:05:30 UTC);
const ANN: &str = "01a1fd55-7a80-7877-aa53-3ffc5ff4dd31";
const BOB: &str = "01a1fd55-7a80-7877-aa54-4ffc5ff4dd31";

fn shown(kind: (&str, &str), items: &[Value], is_short: bool) -> Vec<String> {
    let names = Names::default();
    let drawn: Vec<table::Column> =
        columns::of(kind).iter().map(|column| drawn(column, items, &names, is_short, NOW)).collect();
    table::lines(&drawn, is_short.then_some(WIDTH))
}

#[test]
fn a_list_of_sessions_fits_and_tells_what_matters() {
    let session = |id: &str, state: &str| {
        json!({
            "id": id, "user_id": ANN, "gateway_node_id": BOB, "outline_node_id": null, "state": state,
            "started_at": "2026-11-28T18:00:00.455102Z", "bytes_up": 1_048_576, "bytes_down": 52_428_800_000_u64,
        })
    };
    let items = [session(ANN, "active"), session(BOB, "killed")];
    assert_eq!(
        shown(("sessions", "list"), &items, true),
        [
            "ID            USER      GATEWAY   NODE  STATE     BEGAN      UP     DOWN",
            "3ffc5ff4dd31  5ff4dd31  5ff4dd31  -     active  3 h ago  1.0 MB  52.4 GB",
            "4ffc5ff4dd31  5ff4dd31  5ff4dd31  -     killed  3 h ago  1.0 MB  52.4 GB",
        ]
    );
    assert!(shown(("sessions", "list"), &items, false)[1].starts_with(&format!("{ANN}  ")));
}

#[test]
fn no_table_is_wider_than_a_terminal() {
    let nasty = format!("{}\u{1b}[2J\u{202e}\n{}", "東京 ".repeat(40), "x".repeat(300));
    for resource in &RESOURCES {
        for verb in ["list", "health"] {
            let members = columns::of((resource.name, verb)).iter().flat_map(|column| column.members);
            let row: Map<String, Value> = members.map(|name| ((*name).to_owned(), nasty.as_str().into())).collect();
            let lines = shown((resource.name, verb), &[row.into(), json!({}), json!(7)], true);
            assert_eq!(lines.len(), 4);
            for line in lines {
                assert!(line.width() <= WIDTH && !line.contains(char::is_control), "{}: {line}", resource.name);
            }
        }
    }
}

#[test]
fn a_row_is_described_in_lines() {
    let row = json!({
        "delivery": { "acked": 2, "of": 2, "ms": 38 },
        "id": ANN,
        "plan_id": BOB,
        "quota": { "used_bytes": 1_303_974_707, "period_end": "2026-12-01T00:00:00Z" },
        "effect": { "max_devices": { "from": 5, "to": 2 }, "sessions": 1 },
        "na\u{1b}me": "a\u{7}",
    });
    let mut names = Names::default();
    names.put("plans", BOB, "Standard");
    assert_eq!(
        described(row.as_object().unwrap(), &names, NOW),
        [
            format!("id:                  {ANN}"),
            "delivery:            acked 2 of 2 in 38 ms".into(),
            "effect.max_devices:  5 -> 2".into(),
            "effect.sessions:     1".into(),
            "na\\u{1b}me:          a\\u{7}".into(),
            format!("plan_id:             {BOB} (Standard)"),
            "quota.period_end:    2026-12-01 00:00 (in 2 d)".into(),
            "quota.used_bytes:    1.3 GB".into(),
        ]
    );
}
