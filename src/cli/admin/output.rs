use std::io::IsTerminal;

use serde_json::Value;

use crate::cli::{Failure, qr, say, terminal, why};

/// Prints the answer to a resource and a verb.
pub(super) fn answer(kind: (&str, &str), text: &str, json: bool) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    if json {
        say(terminal::escaped_json(text));
        return Ok(());
    }
    let answer: Value = serde_json::from_str(text).map_err(Failure::runtime)?;
    if kind == ("devices", "why") {
        why::print(&answer);
    } else if let Some(items) = answer.get("items").and_then(Value::as_array) {
        items.iter().for_each(item);
        if let Some(next) = answer.get("next").and_then(Value::as_str) {
            say(format_args!("more: after={next}"));
        }
    } else if let Value::Object(fields) = &answer {
        for (name, value) in fields {
            say(format_args!("{name} {}", plain(name, value)));
        }
        if kind == ("codes", "create")
            && std::io::stdout().is_terminal()
            && let Some(text) = ["link", "code"].iter().find_map(|name| fields.get(*name).and_then(Value::as_str))
            && let Some(picture) = qr::draw(text)
        {
            say(picture);
        }
    }
    Ok(())
}

/// Prints an item of a list.
pub(super) fn item(item: &Value) {
    say(line(item));
}

fn line(item: &Value) -> String {
    let Value::Object(fields) = item else { return plain("", item) };
    let id = fields.get("id").map(|id| plain("id", id));
    let rest = fields.iter().filter(|(name, value)| *name != "id" && !value.is_null());
    let rest = rest.map(|(name, value)| format!("{name}={}", plain(name, value)));
    id.into_iter().chain(rest).collect::<Vec<_>>().join("  ")
}

fn plain(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => terminal::value(text).into_owned(),
        Value::Null => "-".into(),
        Value::Array(items) => items.iter().map(|item| plain(name, item)).collect::<Vec<_>>().join(","),
        Value::Object(_) if name == "delivery" => delivery(value),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => terminal::escaped_json(&value.to_string()).into_owned(),
    }
}

fn delivery(value: &Value) -> String {
    let count = |name: &str| value.get(name).and_then(Value::as_i64).unwrap_or_default();
    format!("acked {} of {} in {} ms", count("acked"), count("of"), count("ms"))
}
