//! IDs as people read and type them: their last digits, which differ where the first ones are alike.

use std::collections::HashSet;

use serde_json::Value;
use uuid::Uuid;

use super::call::Api;
use super::columns::{is_named, label, meant};
use super::pages::Pages;
use super::values::{member, plain};
use super::{Call, usage};
use crate::cli::Failure;

/// As many digits an ID has.
const DIGITS: usize = 32;
/// The least digits that are shown, and that are taken.
const LEAST: usize = 8;
/// By so many it grows where that is not enough.
const STEP: usize = 4;
/// The most that an error names.
const NAMED: usize = 5;

/// An ID on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Whole(Uuid),
    /// The last digits of one, as they were typed.
    End(String),
    /// The name of a row.
    Name(String),
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse::<Uuid>() {
            return Ok(Self::Whole(id));
        }
        let digits = digits_of(text);
        let is_end = (LEAST..DIGITS).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_end { Ok(Self::End(text.to_owned())) } else { Err("not an ID as printed by list and create".into()) }
    }

    /// An ID, or the name of what the API knows by names, too.
    pub(super) fn parse_or_name(text: &str) -> Result<Self, String> {
        let is_name = !text.is_empty() && !text.contains('/') && !matches!(text, "." | "..");
        Self::parse(text).or_else(|error| if is_name { Ok(Self::Name(text.to_owned())) } else { Err(error) })
    }
}

fn digits_of(text: &str) -> String {
    text.replace('-', "").to_lowercase()
}

/// How many of the last digits tell these apart.
pub(super) fn digits<'a>(ids: impl Iterator<Item = &'a str> + Clone) -> usize {
    let mut whole: Vec<String> = ids.map(|id| id.replace('-', "")).collect();
    whole.sort_unstable();
    whole.dedup();
    let differ = |digits: usize| {
        let mut seen = HashSet::new();
        whole.iter().all(|id| seen.insert(end(id, digits)))
    };
    (LEAST..DIGITS).step_by(STEP).find(|digits| differ(*digits)).unwrap_or(DIGITS)
}

/// An ID by so many of its last digits.
pub(super) fn short(id: &str, digits: usize) -> String {
    if digits >= DIGITS || id.parse::<Uuid>().is_err() {
        return id.to_owned();
    }
    end(&id.replace('-', ""), digits).to_owned()
}

/// An ID by as few digits as are ever shown.
pub(super) fn shortest(id: &str) -> String {
    short(id, LEAST)
}

fn end(digits: &str, count: usize) -> &str {
    digits.get(digits.len().saturating_sub(count)..).unwrap_or(digits)
}

/// The ID that a call is about.
pub(super) async fn whole(api: &Api, resource: &str, reference: &Reference) -> Result<String, Failure> {
    match reference {
        Reference::Whole(id) => Ok(id.to_string()),
        Reference::Name(name) => Ok(name.clone()),
        Reference::End(digits) => match found(api, resource, digits).await?.as_slice() {
            [] if is_named(resource) => Ok(digits.clone()),
            [] => Err(Failure::runtime(format!("none of the {resource} has an ID that ends in {digits}"))),
            [row] => Ok(id(row).to_owned()),
            rows => Err(ambiguous(resource, digits, rows)),
        },
    }
}

/// Puts whole IDs in place of short ones in fields that mean other rows.
pub(super) async fn in_fields(api: &Api, call: &mut Call) -> Result<(), Failure> {
    for (name, value) in &mut call.fields {
        let Some(resource) = meant(name) else { continue };
        let Some(Ok(Reference::End(digits))) = value.as_str().map(Reference::parse) else { continue };
        match found(api, resource, &digits).await?.as_slice() {
            [] => {}
            [row] => *value = id(row).into(),
            rows => return Err(ambiguous(resource, &digits, rows)),
        }
    }
    Ok(())
}

/// The rows whose IDs end so, or some of them.
async fn found(api: &Api, resource: &str, digits: &str) -> Result<Vec<Value>, Failure> {
    let digits = digits_of(digits);
    let mut rows = Vec::new();
    let mut pages = Pages::whole(api, resource);
    while let Some(page) = pages.next().await? {
        rows.extend(page.into_iter().filter(|row| digits_of(id(row)).ends_with(&digits)));
        if rows.len() > NAMED {
            break;
        }
    }
    Ok(rows)
}

fn id(row: &Value) -> &str {
    member(row, "id").as_str().unwrap_or_default()
}

fn ambiguous(resource: &str, digits: &str, rows: &[Value]) -> Failure {
    let label = label(resource);
    let named = |row: &Value| match label.map(|label| plain(member(row, label))) {
        Some(label) if !label.is_empty() => format!("{} ({label})", id(row)),
        _ => id(row).to_owned(),
    };
    let named: Vec<String> = rows.iter().take(NAMED).map(named).collect();
    let more = if rows.len() > NAMED { ", …" } else { "" };
    usage(format!("several of the {resource} have IDs that end in {digits}: {}{more}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ANN: &str = "01a1fd55-7a80-7877-aa53-3ffc5ff4dd31";
    const BOB: &str = "01a1fd55-7a80-7877-aa54-4ffc5ff4dd31";

    #[test]
    fn as_many_digits_are_shown_as_tell_ids_apart() {
        assert_eq!(digits([ANN, ANN].into_iter()), 8);
        assert_eq!(digits([ANN, BOB].into_iter()), 12);
        assert_eq!(digits([ANN, "11a1fd55-7a80-7877-aa53-3ffc5ff4dd31"].into_iter()), 32);
        assert_eq!(digits(std::iter::empty()), 8);
        assert_eq!([short(ANN, 8), short(ANN, 16), short(ANN, 32)], ["5ff4dd31", "aa533ffc5ff4dd31", ANN]);
        assert_eq!(short("é", 8), "é");
    }

    #[test]
    fn what_is_shown_is_taken() {
        let end = |digits: &str| Ok(Reference::End(digits.into()));
        assert_eq!(Reference::parse(ANN), Ok(Reference::Whole(ANN.parse().unwrap())));
        assert_eq!(Reference::parse("5ff4dd31"), end("5ff4dd31"));
        assert_eq!(Reference::parse("AA53-3FFC5FF4DD31"), end("AA53-3FFC5FF4DD31"));
        for wrong in ["ff4dd31", "eu-1", "../plans", "", "ähnlich1", "12345678901234567890123456789012x"] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
        let name = |text: &str| Ok(Reference::Name(text.into()));
        assert_eq!(Reference::parse_or_name("eu-1"), name("eu-1"));
        assert_eq!(Reference::parse_or_name("Europe 1?"), name("Europe 1?"));
        assert_eq!(Reference::parse_or_name("5ff4dd31"), end("5ff4dd31"));
        for wrong in ["", "..", "../plans", "a/b"] {
            assert!(Reference::parse_or_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_ambiguous_id_names_what_it_may_mean() {
        let rows = [json!({ "id": ANN, "identifier": "ann@example.com" }), json!({ "id": BOB, "identifier": "bob" })];
        assert_eq!(
            ambiguous("users", "5ff4dd31", &rows).message,
            format!("several of the users have IDs that end in 5ff4dd31: {ANN} (ann@example.com), {BOB} (bob)")
        );
        let many = vec![json!({ "id": ANN }); 7];
        assert!(ambiguous("codes", "5ff4dd31", &many).message.ends_with(&format!(" {ANN}, …")));
    }
}
