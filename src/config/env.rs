use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::value::Value;

use super::error::{ConfigError, PREFIX, line_of};

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
    ConfigError::at(String::new(), "the variable is not UTF-8", name.to_owned())
}

/// The keys that exist, with their defaults.
pub(super) struct Known(BTreeMap<String, BTreeMap<String, toml::Value>>);

impl Known {
    pub(super) fn of(defaults: &str) -> Self {
        Self(toml::from_str(defaults).unwrap_or_default())
    }

    /// Refuses a file that is not TOML or sets a key that does not exist.
    pub(super) fn check_file(&self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            ConfigError::at("--config".into(), error.message(), format!("{}:{line}", path.display()))
        })?;
        for (section, value) in &table {
            let unknown = match (self.0.get(section), value) {
                (None, _) => Some((section.clone(), String::new())),
                (Some(keys), toml::Value::Table(table)) => table
                    .keys()
                    .find(|key| !keys.contains_key(*key))
                    .map(|key| (format!("{section}.{key}"), key.clone())),
                (Some(_), _) => {
                    let line = line_of(text, section, "").unwrap_or(1);
                    let place = format!("{}:{line}", path.display());
                    return Err(ConfigError::at(section.clone(), "must be a section", place));
                }
            };
            if let Some((name, key)) = unknown {
                let line = line_of(text, section, &key).unwrap_or(1);
                let place = format!("{}:{line}", path.display());
                return Err(ConfigError::at(name.clone(), &unknown_key(&name), place));
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
                let unknown = format!("{section}.{key}");
                return Err(ConfigError::at(unknown.clone(), &unknown_key(&unknown), name));
            };
            let text = text.trim();
            let value =
                if default.is_str() { Value::from(text) } else { text.parse().unwrap_or_else(|_| Value::from(text)) };
            figment = figment.merge(figment::providers::Serialized::default(&format!("{section}.{key}"), value));
        }
        Ok(figment)
    }
}

/// Why a key is refused; one that was renamed says how it is called now.
fn unknown_key(name: &str) -> String {
    let renamed =
        name.replacen("enrolment", "enrollment", 1).replacen("gateway.enrol_token", "gateway.enroll_token", 1);
    if renamed == name { "unknown key".into() } else { format!("unknown key; it is called {renamed}") }
}
