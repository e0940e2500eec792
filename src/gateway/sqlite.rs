//! What SQLite says of the files of `state_dir`.

use diesel::ConnectionError;
use diesel::result::Error;

/// An error of SQLite.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqliteError {
    #[error(transparent)]
    Open(#[from] ConnectionError),
    #[error(transparent)]
    Statement(#[from] Error),
}

/// What an error of SQLite means for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SqliteFault {
    /// Another process has it (`SQLITE_BUSY`, `SQLITE_LOCKED`).
    Locked,
    /// The disk takes no more (`SQLITE_FULL`).
    Full,
    /// It is no database, or a damaged one (`SQLITE_NOTADB`, `SQLITE_CORRUPT`).
    Damaged,
    Other,
}

/// The codes as SQLite writes them: its text is all that diesel gives.
const TEXTS: [(&str, SqliteFault); 4] = [
    ("locked", SqliteFault::Locked),
    ("full", SqliteFault::Full),
    ("not a database", SqliteFault::Damaged),
    ("malformed", SqliteFault::Damaged),
];

impl SqliteError {
    /// What it means.
    pub(crate) fn fault(&self) -> SqliteFault {
        let text = self.to_string();
        TEXTS.iter().find(|(sign, _)| text.contains(sign)).map_or(SqliteFault::Other, |(_, fault)| *fault)
    }
}
