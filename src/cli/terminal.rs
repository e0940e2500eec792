use std::borrow::Cow;
use std::fmt::Write;

/// Text from elsewhere as a terminal may show it: what would move the cursor, change its state, hide or turn text around is
/// written out.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 8), |mut shown, letter| {
            if acts(letter) {
                shown.extend(letter.escape_default());
            } else {
                shown.push(letter);
            }
            shown
        })
        .into()
}

/// As [`escaped`], of a JSON document, which stays one.
pub(super) fn escaped_json(text: &str) -> Cow<'_, str> {
    let inside = |letter: char| acts(letter) && !letter.is_ascii_whitespace();
    if !text.contains(inside) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if inside(letter) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                let written = write!(shown, "\\u{unit:04x}");
                debug_assert!(written.is_ok(), "a string grows");
            }
        } else {
            shown.push(letter);
        }
    }
    shown.into()
}

/// A value of a line whose values stand apart by two blanks.
pub(super) fn value(text: &str) -> Cow<'_, str> {
    if text.contains("  ") || text.starts_with(' ') || text.ends_with(' ') {
        return format!("{text:?}").into();
    }
    escaped(text)
}

fn acts(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_shown_text_only() {
        assert_eq!(escaped("Bob's iPhone, Ünïcödé 東京 \\"), "Bob's iPhone, Ünïcödé 東京 \\");
        assert_eq!(escaped("a\x1b]0;x\x07\nid 1\r\u{9b}2J"), "a\\u{1b}]0;x\\u{7}\\nid 1\\r\\u{9b}2J");
        assert_eq!(escaped("\u{202e}txt.exe"), "\\u{202e}txt.exe");
        assert_eq!(value("x  id=1"), "\"x  id=1\"");
        assert_eq!(value("Europe 1"), "Europe 1");
    }

    #[test]
    fn json_stays_json() {
        let text = serde_json::to_string_pretty(&serde_json::json!({ "name": "a\u{9b}2J\u{7f}\u{202e}\u{e0001}é\n" }))
            .unwrap();
        let shown = escaped_json(&text);
        assert!(!shown.contains(['\u{9b}', '\u{7f}', '\u{202e}', '\u{e0001}']) && shown.contains('é'));
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(&text));
    }
}
