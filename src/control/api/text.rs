//! Text at the door: no control characters reach the database or a log (docs/02, "Text").

use serde_json::Value;

/// Stands where a control character was in what clients say of themselves.
const REPLACEMENT: char = '\u{fffd}';

/// Whether a JSON text can have control characters in its strings: they stand there escaped, or are above ASCII.
pub(crate) fn is_suspicious(json: &[u8]) -> bool {
    json.iter().any(|byte| matches!(byte, b'\\' | 0x7f | 0xc2))
}

/// The path of the first string with a control character; below the fields named in `cleaned` such characters are
/// replaced.
pub(crate) fn check(value: &mut Value, cleaned: &[&str]) -> Result<(), String> {
    match value {
        Value::String(text) if text.contains(char::is_control) => Err(String::new()),
        Value::Array(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                check(item, cleaned).map_err(|path| format!("[{at}]{}", joined(&path)))?;
            }
            Ok(())
        }
        Value::Object(fields) => {
            if fields.keys().any(|name| name.contains(char::is_control)) {
                return Err(String::new());
            }
            for (name, field) in fields {
                if cleaned.contains(&name.as_str()) {
                    clean(field);
                } else {
                    check(field, cleaned).map_err(|path| format!("{name}{}", joined(&path)))?;
                }
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn joined(path: &str) -> String {
    if path.is_empty() || path.starts_with('[') { path.to_owned() } else { format!(".{path}") }
}

fn clean(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(char::is_control) => {
            *text = text.replace(char::is_control, REPLACEMENT.encode_utf8(&mut [0; 4]));
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(fields) => fields.values_mut().for_each(clean),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a part of a URL has an escaped control character.
pub(crate) fn has_control_escape(part: &str) -> bool {
    let part = part.to_ascii_lowercase();
    ["%0", "%1", "%7f", "%c2%8", "%c2%9"].iter().any(|escape| part.contains(escape))
}

/// The name of the first parameter of a query string with a control character.
pub(crate) fn suspicious_parameter(query: &str) -> Option<&str> {
    query.split('&').find(|pair| has_control_escape(pair)).map(|pair| pair.split('=').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn control_characters_are_named_by_their_field() {
        let path = |mut value: Value| check(&mut value, &[]).err();
        assert_eq!(path(json!({ "name": "a\u{0}b" })), Some("name".into()));
        assert_eq!(path(json!({ "list": ["a", { "of": "\u{85}" }] })), Some("list[1].of".into()));
        assert_eq!(path(json!({ "a": { "b": "\u{7f}" } })), Some("a.b".into()));
        assert_eq!(path(json!({ "name": "Ж 名 \u{fffd}", "n": 1, "x": null })), None);
        for bytes in [br#"{"name":"a\u0000"}"#.as_slice(), b"{\"name\":\"\x7f\"}", "{\"name\":\"\u{9b}\"}".as_bytes()] {
            assert!(is_suspicious(bytes));
        }
        assert!(!is_suspicious("{\"name\":\"Ж 名\"}".as_bytes()));
    }

    #[test]
    fn what_clients_say_is_cleaned() {
        let mut value = json!({ "version": "1", "refusals": [{ "client_version": "1\u{0}\u{1b}[2J" }] });
        assert!(check(&mut value, &["refusals"]).is_ok());
        assert_eq!(value["refusals"][0]["client_version"], "1\u{fffd}\u{fffd}[2J");
    }

    #[test]
    fn parameters_of_queries() {
        assert_eq!(suspicious_parameter("limit=5&support_id=%00a"), Some("support_id"));
        assert_eq!(suspicious_parameter("a=%c2%9B"), Some("a"));
        assert_eq!(suspicious_parameter("limit=5&epoch=%D0%96+%20"), None);
        assert!(has_control_escape("/plans/a%00b") && !has_control_escape("/plans/%D0%96%20"));
    }
}
