use std::fmt::{self, Display};

use super::Section;

/// A key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    section: &'static str,
    name: &'static str,
}

impl Key {
    /// The key of a section's field, as [`key!`] names it.
    pub(crate) fn of_field<S: Section>(_: fn(&S), name: &'static str) -> Self {
        Self { section: S::NAME, name }
    }

    /// The section that it is in.
    pub fn section(self) -> &'static str {
        self.section
    }

    /// What it is called in its section.
    pub fn name(self) -> &'static str {
        self.name
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.section, self.name)
    }
}

/// Names a key by its section's type and its field; what is no field does not compile.
macro_rules! key {
    ($section:ty, $field:ident) => {
        $crate::config::Key::of_field(
            |section: &$section| {
                let _ = &section.$field;
            },
            stringify!($field),
        )
    };
}
pub(crate) use key;

/// A value that will not do.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Invalid {
    pub(super) key: Key,
    pub(super) reason: String,
}

impl Invalid {
    /// Names a key and what is wrong with its value.
    pub fn new(key: Key, reason: impl Display) -> Self {
        Self { key, reason: reason.to_string() }
    }
}

/// A file that a key names and that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct FileError {
    path: String,
    source: std::io::Error,
}

/// Reads a file that a key names.
pub fn read_file(path: &str) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|source| FileError { path: path.to_owned(), source })
}
