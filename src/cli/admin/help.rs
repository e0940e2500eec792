//! What the help of a resource and of a verb says of fields, with an example.

use unicode_width::UnicodeWidthStr;
use uuid::Uuid;

use super::contract::{Contract, Field, Request};
use super::resources::{Id, Resource, Verb};

const WIDTH: usize = 80;
/// Names that are longer stand on a line of their own.
const NAME: usize = 18;
const INDENT: usize = 2;
/// A command goes on in the next line.
const GOES_ON: &str = " \\";
const IMPORT: (&str, &str) = ("access_keys", "file");

/// The fields of a verb and an example.
pub(super) fn of_verb(resource: &Resource, verb: &Verb) -> String {
    let request = requested(resource, verb);
    let mut lines = Vec::new();
    if verb.takes_fields && !request.fields.is_empty() {
        lines.push(if verb.name == "list" { "Filters:" } else { "Fields:" }.to_owned());
        lines.extend(request.fields.iter().flat_map(|field| described(field, "")));
        lines.push(String::new());
    }
    lines.push("Example:".to_owned());
    lines.push(example(resource, verb, &request));
    lines.join("\n")
}

/// The fields of a resource and an example of each verb.
pub(super) fn of_resource(resource: &Resource) -> String {
    let request =
        |name: &str| resource.verbs.iter().find(|verb| verb.name == name).map(|verb| requested(resource, verb));
    let (create, update) = (request("create"), request("update"));
    let has = |request: &Option<Request>, name: &str| {
        request.as_ref().is_none_or(|request| request.fields.iter().any(|field| field.name == name))
    };
    let mut lines = Vec::new();
    for field in create.iter().flat_map(|request| &request.fields) {
        lines.extend(described(field, if has(&update, &field.name) { "" } else { "not in update" }));
    }
    for field in update.iter().flat_map(|request| &request.fields).filter(|field| !has(&create, &field.name)) {
        lines.extend(described(field, "only in update"));
    }
    if !lines.is_empty() {
        lines.insert(0, "Fields:".to_owned());
        lines.push(String::new());
    }
    lines.push("Examples:".to_owned());
    lines.extend(resource.verbs.iter().map(|verb| example(resource, verb, &requested(resource, verb))));
    lines.join("\n")
}

/// What the API takes, with the file in place of the keys that are read from it.
fn requested(resource: &Resource, verb: &Verb) -> Request {
    let mut request = Contract::embedded().request(verb.method, &verb.template(resource));
    if !verb.takes_fields {
        request.example.clear();
    }
    if let Some(field) = request.fields.iter_mut().find(|field| field.name == IMPORT.0) {
        field.name = IMPORT.1.into();
        field.kind = "path".into();
        field.about = "An access key a line; - is the standard input".into();
    }
    for (name, value) in request.example.iter_mut().filter(|(name, _)| name == IMPORT.0) {
        (*name, *value) = (IMPORT.1.to_owned(), "keys.txt".to_owned());
    }
    request
}

fn described(field: &Field, limit: &str) -> Vec<String> {
    let kind = [field.kind.as_str(), if field.is_required { "required" } else { "" }, limit];
    let kind: Vec<&str> = kind.into_iter().filter(|word| !word.is_empty()).collect();
    let mut text = kind.join(", ");
    if !field.about.is_empty() {
        text.push_str(": ");
        text.push_str(&field.about);
    }
    if let Some(range) = &field.range {
        text.push_str("; ");
        text.push_str(range);
    }
    if let Some(default) = field.default.as_ref().filter(|default| !default.is_empty()) {
        text.push_str("; by default ");
        text.push_str(default);
    }
    if let Some(example) = field.example.as_ref().filter(|example| example.parse::<Uuid>().is_err()) {
        text.push_str("; such as ");
        text.push_str(&quoted(example));
    }
    let indent = INDENT + NAME;
    let mut lines = wrapped(&text, WIDTH - indent).into_iter();
    let first = lines.next().unwrap_or_default();
    let (name, blank) = (&field.name, "");
    let mut shown = if name.width() < NAME {
        vec![format!("{blank:INDENT$}{name:NAME$}{first}")]
    } else {
        vec![format!("{blank:INDENT$}{name}"), format!("{blank:indent$}{first}")]
    };
    shown.extend(lines.map(|line| format!("{blank:indent$}{line}")));
    shown
}

/// A text in lines no wider than this, words that are wider apart.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let words = text
        .split(' ')
        .map(|word| if word.width() > width { word.split_inclusive('|') } else { word.split_inclusive(' ') });
    for (word, parts) in words.enumerate() {
        for (part, text) in parts.enumerate() {
            let blank = usize::from(word > 0 && part == 0);
            match lines.last_mut() {
                Some(line) if line.width() + blank + text.width() <= width => {
                    line.extend(std::iter::repeat_n(' ', blank));
                    line.push_str(text);
                }
                _ => lines.push(text.to_owned()),
            }
        }
    }
    lines
}

fn example(resource: &Resource, verb: &Verb, request: &Request) -> String {
    let id = (verb.id == Id::Required).then(|| "ID".to_owned());
    let value = |value: &str| if value.parse::<Uuid>().is_ok() { "ID".to_owned() } else { quoted(value) };
    let fields = request.example.iter().map(|(name, text)| format!("{name}={}", value(text)));
    let words = ["httvps", "admin", resource.name, verb.name].map(str::to_owned);
    let mut lines = vec![String::new()];
    for word in words.into_iter().chain(id).chain(fields) {
        let width = lines.last().map_or(0, |line| line.width() + word.width());
        match lines.last_mut() {
            Some(line) if INDENT + width + GOES_ON.width() < WIDTH => {
                line.push_str(if line.is_empty() { "" } else { " " });
                line.push_str(&word);
            }
            _ => lines.push(format!("{:INDENT$}{word}", "")),
        }
    }
    let lines: Vec<String> = lines.into_iter().map(|line| format!("{:INDENT$}{line}", "")).collect();
    lines.join(&format!("{GOES_ON}\n"))
}

/// A value as a shell takes it.
fn quoted(value: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_.,:/@+=%…".contains(letter);
    if value.chars().all(plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::super::resources::RESOURCES;
    use super::*;

    fn resource(name: &str) -> &'static Resource {
        RESOURCES.iter().find(|resource| resource.name == name).unwrap()
    }

    fn verb(of: &str, name: &str) -> String {
        let resource = resource(of);
        of_verb(resource, resource.verbs.iter().find(|verb| verb.name == name).unwrap())
    }

    #[test]
    fn a_verb_shows_its_fields_and_an_example() {
        let text = verb("users", "create");
        assert!(text.starts_with("Fields:\n  identifier        text, required: An e-mail address"), "{text}");
        assert!(text.ends_with("Example:\n  httvps admin users create identifier=ann@example.com"), "{text}");
        assert!(verb("codes", "create").ends_with("codes create user_id=ID hours=48"));
        assert!(verb("sessions", "list").starts_with("Filters:\n"));
        assert_eq!(verb("devices", "token"), "Example:\n  httvps admin devices token ID");
        assert!(verb("nodes", "import").ends_with("nodes import file=keys.txt region=eu-1"));
        assert!(!verb("nodes", "import").contains("access_keys"));
    }

    #[test]
    fn a_resource_says_which_fields_cannot_be_changed() {
        let text = of_resource(resource("devices"));
        assert!(text.contains("  user_id           ID, required, not in update: "), "{text}");
        assert!(text.contains("  status            active|revoked, only in update"), "{text}");
        assert!(text.contains("\n  httvps admin devices why ID"), "{text}");
        assert!(of_resource(resource("sessions")).starts_with("Examples:\n"));
    }

    #[test]
    fn help_fits_a_terminal() {
        for resource in &RESOURCES {
            let verbs = resource.verbs.iter().map(|verb| of_verb(resource, verb));
            for text in verbs.chain([of_resource(resource)]) {
                assert!(text.lines().all(|line| line.width() <= WIDTH), "{text}");
            }
        }
    }

    #[test]
    fn values_are_quoted_for_a_shell() {
        assert_eq!(
            ["ann@example.com", "Europe 1", "Ann's phone", "{\"ru\":\"х\"}"].map(quoted),
            ["ann@example.com", "'Europe 1'", "'Ann'\\''s phone'", "'{\"ru\":\"х\"}'"]
        );
    }
}
