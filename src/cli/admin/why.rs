use serde_json::Value;

use super::{say, terminal};

const ROWS: [&str; 5] = ["device", "user", "subscription", "plan", "quota"];
const LISTS: [&str; 4] = ["sessions", "gateways", "nodes", "refusals"];

/// Writes why a device has no traffic: the findings, then what they were drawn from.
pub(super) fn print(answer: &Value) {
    for finding in items(answer, "findings") {
        say(format_args!("{}: {}", plain(&finding["code"]), plain(&finding["text"])));
    }
    for section in ROWS {
        say(format_args!("\n{section}"));
        match answer.get(section).and_then(Value::as_object) {
            Some(fields) => {
                for (name, value) in fields {
                    say(format_args!("  {name} {}", plain(value)));
                }
            }
            None => say("  -"),
        }
    }
    for section in LISTS {
        say(format_args!("\n{section}"));
        if items(answer, section).is_empty() {
            say("  -");
        }
        for item in items(answer, section) {
            say(format_args!("  {}", line(item)));
        }
    }
}

fn items<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn line(item: &Value) -> String {
    let Some(fields) = item.as_object() else { return plain(item) };
    let shown = fields.iter().filter(|(_, value)| !value.is_null());
    let words: Vec<String> = shown.map(|(name, value)| format!("{name}={}", plain(value))).collect();
    words.join("  ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => terminal::value(text).into_owned(),
        Value::Null => "-".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => terminal::escaped_json(&value.to_string()).into_owned(),
    }
}
