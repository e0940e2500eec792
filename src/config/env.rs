use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::value::Value;

use super::error::{ConfigError, PREFIX, Place, Subject, line_of};

/// The process's variables that may be ours; others may hold whatever they want.
pub(super) fn vars() -> Result<Vec<(String, String)>, ConfigError> {
    let ours = std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    ours.map(|(name, value)| {
        let name = name.into_string().map_err(|name| not_text(&name.to_string_lossy()))?;
        let value = value.into_string().map_err(|_| not_text(&name))?;
        Ok((name, value))
    })
    .collect()
}

fn not_text(name: &str) -> ConfigError {
    ConfigError::at(Subject::Variable, "the variable is not UTF-8", Place::Variable(name.to_owned()))
}

/// The keys that exist, with their defaults.
pub(super) struct Known(BTreeMap<String, BTreeMap<String, toml::Value>>);

impl Known {
    pub(super) fn of(defaults: &str) -> Self {
        Self(toml::from_str(defaults).unwrap_or_default())
    }

    /// Refuses a file that is not TOML or sets a key that does not exist.
    pub(super) fn check_file(&self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let at = |line: Option<usize>| Place::Line(path.to_owned(), line.unwrap_or(1));
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
            ConfigError::at(Subject::File, error.message(), at(line))
        })?;
        for (section, value) in &table {
            let unknown = match (self.0.get(section), value) {
                (None, _) => Some(Subject::Section(section.clone())),
                (Some(keys), toml::Value::Table(table)) => table
                    .keys()
                    .find(|key| !keys.contains_key(*key))
                    .map(|key| Subject::Key(section.clone(), key.clone())),
                (Some(_), _) => {
                    let place = at(line_of(text, section, ""));
                    return Err(ConfigError::at(Subject::Section(section.clone()), "must be a section", place));
                }
            };
            if let Some(subject) = unknown {
                let name = if let Subject::Key(_, name) = &subject { name.as_str() } else { "" };
                let place = at(line_of(text, section, name));
                return Err(unknown_key(subject, place));
            }
        }
        Ok(())
    }

    /// Applies `HTTVPS_<SECTION>__<KEY>` variables, without blanks and line ends around their values; names without `__`
    /// are somebody else's.
    pub(super) fn merge_vars(
        &self,
        mut figment: Figment,
        vars: impl Iterator<Item = (String, String)>,
    ) -> Result<Figment, ConfigError> {
        for (name, text) in vars {
            let Some((section, key)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__")) else {
                continue;
            };
            let (section, key) = (section.to_lowercase(), key.to_lowercase());
            let Some(default) = self.0.get(&section).and_then(|keys| keys.get(&key)) else {
                return Err(unknown_key(Subject::Key(section, key), Place::Variable(name)));
            };
            let text = text.trim();
            let value =
                if default.is_str() { Value::from(text) } else { text.parse().unwrap_or_else(|_| Value::from(text)) };
            figment = figment.merge(figment::providers::Serialized::default(&format!("{section}.{key}"), value));
        }
        Ok(figment)
    }
}

/// Refuses a key; one that was renamed is told what it is called now.
fn unknown_key(subject: Subject, place: Place) -> ConfigError {
    let name = subject.to_string();
    let renamed =
        name.replacen("enrolment", "enrollment", 1).replacen("gateway.enrol_token", "gateway.enroll_token", 1);
    if renamed == name {
        return ConfigError::at(subject, "unknown key", place);
    }
    ConfigError::at(subject, &format!("unknown key; it is called {renamed}"), place)
}
