//! Answers as people, spreadsheets and scripts read them.

use std::io::IsTerminal;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::call::Api;
use super::columns::{self, Column, Form, referred};
use super::names::Names;
use super::pages::{CURSOR, Page};
use super::values::{self, member, plain};
use super::{ids, sheet, table, why};
use crate::cli::{Failure, complain, qr, say, terminal};
use crate::clock::Clock;

/// As wide a table is at most on a terminal.
pub(super) const WIDTH: usize = 80;

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Tables and lines.
    Text,
    /// The same with all members and whole IDs.
    Wide,
    Json,
    Csv,
}

impl Format {
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Wide)
    }
}

/// What answers are written with.
pub(super) struct Output<'a> {
    pub(super) api: &'a Api,
    /// The resource and the verb.
    pub(super) kind: (&'static str, &'static str),
    pub(super) format: Format,
}

impl Output<'_> {
    /// Prints an answer as it came.
    pub(super) async fn answer(&self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        if self.format == Format::Json {
            say(terminal::escaped_json(text));
            return Ok(());
        }
        let mut answer: Value = serde_json::from_str(text).map_err(Failure::runtime)?;
        if let Some(page) = Page::of(&mut answer) {
            if self.format.is_text() {
                heading(&answer);
            }
            return self.page(&page).await;
        }
        if self.format == Format::Csv {
            return sheet::print(std::slice::from_ref(&answer));
        }
        if self.kind == ("devices", "why") {
            why::print(&answer, std::io::stdout().is_terminal().then(|| Clock::system().now()));
        } else if let Value::Object(fields) = &answer {
            self.object(fields).await;
        }
        Ok(())
    }

    /// Prints the items of a list, as JSON in one document.
    pub(super) async fn page(&self, page: &Page) -> Result<(), Failure> {
        let more = page.next.as_ref().map(|next| format!("more: {CURSOR}={next}"));
        match self.format {
            Format::Json => {
                say(terminal::escaped_json(&json!({ "items": page.items, "next": page.next }).to_string()));
            }
            Format::Csv => {
                sheet::print(&page.items)?;
                if let Some(more) = more {
                    complain(format!("{more}\n"));
                }
            }
            Format::Text | Format::Wide => {
                for line in self.table(&page.items).await {
                    say(line);
                }
                if let Some(more) = more {
                    say(more);
                }
            }
        }
        Ok(())
    }

    async fn table(&self, items: &[Value]) -> Vec<String> {
        let is_terminal = std::io::stdout().is_terminal();
        let chosen = columns::of(self.kind);
        let mut names = Names::default();
        for column in chosen {
            if let (Form::Name(resource), [id]) = (column.form, column.members) {
                names.look_up(self.api, resource, items.iter().filter_map(|row| member(row, id).as_str())).await;
            }
        }
        let is_short = is_terminal && self.format == Format::Text;
        let now = Clock::system().now();
        let mut drawn: Vec<table::Column> =
            chosen.iter().map(|column| drawn(column, items, &names, is_short, now)).collect();
        if self.format == Format::Wide || chosen.is_empty() {
            let shown =
                |name: &str| chosen.iter().any(|column| column.form.is_whole() && column.members.contains(&name));
            for name in sheet::members(items).into_iter().filter(|name| !shown(name)) {
                let cells: Vec<String> = items.iter().map(|row| plain(member(row, name))).collect();
                let is_right = items.iter().any(|row| member(row, name).is_number());
                drawn.push(table::Column { title: name.to_uppercase(), cells, is_right, is_rigid: false });
            }
        }
        table::lines(&drawn, is_short.then_some(WIDTH))
    }

    async fn object(&self, fields: &Map<String, Value>) {
        if std::io::stdout().is_terminal() {
            self.person(fields).await;
        } else {
            for (name, value) in fields {
                let text = if name == "delivery" { values::delivery(value) } else { plain(value) };
                say(format_args!("{name} {text}"));
            }
        }
    }

    /// Prints a row for a person, with names beside IDs.
    async fn person(&self, fields: &Map<String, Value>) {
        let mut names = Names::default();
        for (name, id) in fields {
            if let (Some(resource), Some(id)) = (referred(name), id.as_str()) {
                names.look_up(self.api, resource, std::iter::once(id)).await;
            }
        }
        for line in described(fields, &names, Clock::system().now()) {
            say(line);
        }
        if self.kind == ("codes", "create")
            && let Some(text) = ["link", "code"].iter().find_map(|name| fields.get(*name).and_then(Value::as_str))
            && let Some(picture) = qr::draw(text)
        {
            say(picture);
        }
    }
}

/// Prints what an answer has beside its items.
fn heading(answer: &Value) {
    let fields =
        answer.as_object().into_iter().flatten().filter(|(name, _)| !matches!(name.as_str(), "items" | "next"));
    for (name, value) in fields {
        say(format_args!("{name} {}", plain(value)));
    }
}

/// The fields of a row below each other with their values as people read them.
pub(super) fn described(fields: &Map<String, Value>, names: &Names, now: OffsetDateTime) -> Vec<String> {
    let mut flat: Vec<(String, &Value)> = Vec::new();
    for (name, value) in fields {
        flatten(name, value, &mut flat);
    }
    flat.sort_by_key(|(name, _)| name != "id");
    let width = flat.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 1;
    let line = |(name, value): (String, &Value)| {
        let known = referred(&name).zip(value.as_str()).and_then(|(resource, id)| names.get(resource, id));
        let text = match known {
            Some(known) => format!("{} ({known})", plain(value)),
            None if name == "price" => {
                format!("{} ({})", plain(value), values::price(value, fields.get("currency").unwrap_or(&Value::Null)))
            }
            None => values::human(&name, value, now),
        };
        format!("{:width$}  {text}", format!("{name}:"))
    };
    flat.into_iter().map(line).collect()
}

/// The members of an object by their paths; what is a figure or a change stays one.
fn flatten<'a>(name: &str, value: &'a Value, flat: &mut Vec<(String, &'a Value)>) {
    match value.as_object() {
        Some(fields) if !matches!(name, "delivery" | "names") && !fields.contains_key("from") => {
            for (inner, value) in fields {
                flatten(&format!("{name}.{inner}"), value, flat);
            }
        }
        _ => flat.push((terminal::escaped(name).into_owned(), value)),
    }
}

/// A column of a list with its cells.
pub(super) fn drawn(
    column: &Column,
    items: &[Value],
    names: &Names,
    is_short: bool,
    now: OffsetDateTime,
) -> table::Column {
    let first = column.members.first().copied().unwrap_or_default();
    let second = column.members.get(1).copied().unwrap_or_default();
    let known = items.iter().filter_map(|row| member(row, first).as_str());
    let digits = if is_short && column.form == Form::Id { ids::digits(known) } else { usize::MAX };
    let cell = |row: &Value| {
        let (first, second) = (member(row, first), member(row, second));
        match column.form {
            Form::Id => {
                first.as_str().map_or_else(|| plain(first), |id| terminal::value(&ids::short(id, digits)).into())
            }
            Form::Name(resource) => names.of(resource, first),
            Form::Text if first.as_str() == Some("") => values::NOTHING.into(),
            Form::Limit => values::limit(first),
            Form::Gigabytes => values::gigabytes(first),
            Form::Rate => values::rate(first),
            Form::Bytes => values::bytes(first),
            Form::Time => values::time(first),
            Form::Age => values::age(first, now),
            Form::YesNo => values::yes_no(first),
            Form::Share => format!("{}/{}", plain(first), plain(second)),
            Form::Address => address(first, second),
            Form::Price => values::price(first, second),
            Form::Period if second.is_number() => format!("{second} d"),
            Form::All if first.as_array().is_some_and(Vec::is_empty) => "all".into(),
            Form::Text | Form::Number | Form::Period | Form::All => plain(first),
        }
    };
    table::Column {
        title: column.title.into(),
        cells: items.iter().map(cell).collect(),
        is_right: column.form.is_right(),
        is_rigid: column.form.is_rigid(),
    }
}

fn address(host: &Value, port: &Value) -> String {
    let host = plain(host);
    if host.contains(':') { format!("[{host}]:{}", plain(port)) } else { format!("{host}:{}", plain(port)) }
}

#[cfg(test)]
mod tests;
