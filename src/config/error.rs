use std::fmt;
use std::path::Path;

/// What the names of variables begin with.
pub(super) const PREFIX: &str = "HTTVPS_";

/// The variable that sets a key.
fn variable(section: &str, key: &str) -> String {
    format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase())
}

/// A configuration that cannot be used: `KEY: reason (FILE:LINE | HTTVPS_X__Y)`.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    key: String,
    reason: String,
    place: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.reason)?;
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        Ok(())
    }
}

impl ConfigError {
    pub(super) fn new(section: &str, key: &str, reason: &str, file: Option<&Path>) -> Self {
        let name = if key.is_empty() { section.to_owned() } else { format!("{section}.{key}") };
        let place = place(section, key, file);
        Self { key: name, reason: one_line(reason), place }
    }

    pub(super) fn at(key: String, reason: &str, place: String) -> Self {
        Self { key, reason: one_line(reason), place: Some(place) }
    }

    pub(super) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self { key: "--config".into(), reason: error.to_string(), place: Some(path.display().to_string()) }
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
}

fn one_line(reason: &str) -> String {
    reason.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn place(section: &str, key: &str, file: Option<&Path>) -> Option<String> {
    let variable = variable(section, key);
    if std::env::var_os(&variable).is_some() {
        return Some(variable);
    }
    let file = file?;
    let text = std::fs::read_to_string(file).ok()?;
    Some(format!("{}:{}", file.display(), line_of(&text, section, key)?))
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
