use std::fmt;
use std::path::{Path, PathBuf};

use super::Invalid;

/// What the names of variables begin with.
pub(super) const PREFIX: &str = "HTTVPS_";

/// The variable that sets a key.
fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase())
}

/// A configuration that cannot be used: `KEY: reason (FILE:LINE | HTTVPS_X__Y)`.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    subject: Subject,
    reason: String,
    place: Option<Place>,
}

/// What of a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// A variable, which is named where it is.
    Variable,
    /// The file.
    File,
    Section(String),
    /// A key of a section, as somebody wrote it.
    Key(String, String),
}

/// Where it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Variable(String),
    File(PathBuf),
    /// A line of a file, from 1.
    Line(PathBuf, usize),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable => Ok(()),
            Self::File => f.write_str("--config"),
            Self::Section(section) => f.write_str(section),
            Self::Key(section, name) => write!(f, "{section}.{name}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject != Subject::Variable {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.reason)?;
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        Ok(())
    }
}

impl ConfigError {
    pub(super) fn at(subject: Subject, reason: &str, place: Place) -> Self {
        Self { subject, reason: one_line(reason), place: Some(place) }
    }

    pub(super) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::at(Subject::File, &error.to_string(), Place::File(path.to_owned()))
    }

    pub(super) fn invalid(invalid: &Invalid, file: Option<&Path>) -> Self {
        Self::new(invalid.key.section(), invalid.key.name(), &invalid.reason, file)
    }

    pub(super) fn printing(error: &toml::ser::Error) -> Self {
        Self { subject: Subject::Section("config".into()), reason: one_line(&error.to_string()), place: None }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "every other variant is treated alike")]
    pub(super) fn value(section: &str, error: &figment::Error, file: Option<&Path>) -> Self {
        let is_index = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let key = error.path.iter().rfind(|part| *part != section && !is_index(part)).cloned().unwrap_or_default();
        let key = match &error.kind {
            figment::error::Kind::UnknownField(field, _) if key.is_empty() => field.clone(),
            figment::error::Kind::MissingField(field) if key.is_empty() => field.to_string(),
            _ => key,
        };
        Self::new(section, &key, &error.kind.to_string(), file)
    }

    /// Of a key, or of a section whose key is not known.
    fn new(section: &str, name: &str, reason: &str, file: Option<&Path>) -> Self {
        let subject = match name {
            "" => Subject::Section(section.to_owned()),
            name => Subject::Key(section.to_owned(), name.to_owned()),
        };
        Self { subject, reason: one_line(reason), place: place(section, name, file) }
    }
}

fn one_line(reason: &str) -> String {
    reason.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn place(section: &str, key: &str, file: Option<&Path>) -> Option<Place> {
    let variable = variable(section, key);
    if std::env::var_os(&variable).is_some() {
        return Some(Place::Variable(variable));
    }
    let file = file?;
    let text = std::fs::read_to_string(file).ok()?;
    Some(Place::Line(file.to_owned(), line_of(&text, section, key)?))
}

/// The line (from 1) that sets a key in a TOML text.
pub(super) fn line_of(text: &str, section: &str, key: &str) -> Option<usize> {
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
            inside = header == section;
            let is_table_of_key = header.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')) == Some(key);
            if inside && key.is_empty() || is_table_of_key {
                return Some(index + 1);
            }
        }
        let name = line.split('=').next().unwrap_or_default().trim();
        if inside && name == key || name.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')) == Some(key) {
            return Some(index + 1);
        }
    }
    None
}
