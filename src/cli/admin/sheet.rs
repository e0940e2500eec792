//! Answers as comma-separated values (RFC 4180): the API's own names and values.

use std::io::IsTerminal;

use csv::{Terminator, WriterBuilder};
use serde_json::Value;

use crate::cli::{Failure, say, terminal};

/// Prints rows below a line of their members' names.
pub(super) fn print(rows: &[Value]) -> Result<(), Failure> {
    let text = written(rows, std::io::stdout().is_terminal())?;
    if !text.is_empty() {
        say(text.trim_end_matches('\n'));
    }
    Ok(())
}

fn written(rows: &[Value], is_terminal: bool) -> Result<String, Failure> {
    let names = members(rows);
    if names.is_empty() {
        return Ok(String::new());
    }
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(&names).map_err(Failure::runtime)?;
    for row in rows {
        let cells = names.iter().map(|name| cell(row.get(name), is_terminal));
        writer.write_record(cells).map_err(Failure::runtime)?;
    }
    let bytes = writer.into_inner().map_err(Failure::runtime)?;
    String::from_utf8(bytes).map_err(Failure::runtime)
}

/// The names of all members, the ID first.
pub(super) fn members(rows: &[Value]) -> Vec<&String> {
    let mut names: Vec<&String> = Vec::new();
    for row in rows.iter().filter_map(Value::as_object) {
        for name in row.keys() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.sort_by_key(|name| (*name != "id", *name));
    names
}

fn cell(value: Option<&Value>, is_terminal: bool) -> String {
    let text = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        Some(value) => value.to_string(),
    };
    if is_terminal { terminal::escaped(&text).into_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_quoted_where_they_have_to_be() {
        let rows = [
            json!({ "name": "Standard, \"the\" plan\r\n", "id": "01a1", "regions": ["eu-1", "ru-1"], "price": 4.5 }),
            json!({ "name": "é\u{1b}[2J", "id": "01a2", "names": { "ru": "х" }, "price": null, "udp": true }),
        ];
        assert_eq!(
            written(&rows, false).unwrap(),
            "id,name,names,price,regions,udp\r\n\
             01a1,\"Standard, \"\"the\"\" plan\r\n\",,4.5,\"eu-1,ru-1\",\r\n\
             01a2,é\u{1b}[2J,\"{\"\"ru\"\":\"\"х\"\"}\",,,true\r\n"
        );
        assert!(!written(&rows, true).unwrap().contains('\u{1b}'));
        assert_eq!(written(&[], false).unwrap(), "");
    }
}
