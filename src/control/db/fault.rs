//! What an error of the database means (docs/01, "When the database misbehaves").

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error};

use crate::control::domain::admission::Refusal;
use crate::control::domain::billing::BillingError;
use crate::digest::fresh_number;
use crate::frame::SessionCode;

/// Attempts of a transaction that others are in the way of.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE_MS: u64 = 5;

/// Transactions begun again since this was read last.
static RETRIED: AtomicU64 = AtomicU64::new(0);

/// What an error of the database means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another transaction was in the way (SQLSTATE 40001, 40P01): the same one may succeed now.
    Conflict,
    /// The connection is of no more use: closed, or its server takes no writes (08, 25006, 57P0x).
    Connection,
    /// There was no answer in time: the statement is slow, or the connection is dead.
    Unanswered,
    /// The server's disk takes no more (53100, 58030; SQLite's FULL, IOERR).
    Full,
    /// The server cannot do it now: overloaded, out of time (53, 57014, 58; SQLite's BUSY).
    Busy,
    /// The statement will not do, now or later.
    Statement,
}

/// Errors of the server that the driver gives by their text only, as PostgreSQL and SQLite write them.
const CONFLICTS: [&str; 2] = ["deadlock detected", "could not serialize access"];
const LOST: [&str; 6] = [
    "terminating connection",
    "the database system is",
    "server conn crashed",
    "server closed",
    "server login",
    "pgbouncer",
];
const FULL: [&str; 8] = [
    "No space left on device",
    "could not create file",
    "could not extend",
    "could not flush",
    "could not fsync",
    "could not write",
    "database or disk is full",
    "disk I/O error",
];
const BUSY: [&str; 26] = [
    "canceling statement",
    "could not access",
    "could not close",
    "could not map",
    "could not obtain lock",
    "could not open file",
    "could not read",
    "could not remove",
    "could not rename",
    "could not resize",
    "could not seek",
    "could not stat",
    "could not truncate",
    "no more connections allowed",
    "out of memory",
    "out of shared memory",
    "query_wait_timeout",
    "remaining connection slots",
    "temporary file size exceeds",
    "too many clients",
    "too many connections",
    "attempt to write a readonly database",
    "database disk image is malformed",
    "is locked",
    "locking protocol",
    "unable to open database",
];
const UNANSWERED: &str = "no answer in time";
/// What the driver could not write for the server.
const UNSENT: [&str; 2] = ["error serializing", "error encoding"];

impl Fault {
    /// What an error means.
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other variant is treated alike")]
    pub(crate) fn of(error: &Error) -> Self {
        let (kind, info) = match error {
            Error::DatabaseError(kind, info) => (kind, info),
            Error::BrokenTransactionManager
            | Error::AlreadyInTransaction
            | Error::NotInTransaction
            | Error::RollbackErrorOnCommit { .. } => return Self::Connection,
            _ => return Self::Statement,
        };
        let says = |texts: &[&str]| texts.iter().any(|text| info.message().contains(text));
        match kind {
            DatabaseErrorKind::SerializationFailure => Self::Conflict,
            DatabaseErrorKind::UnableToSendCommand if says(&UNSENT) => Self::Statement,
            DatabaseErrorKind::UnableToSendCommand if info.message() == UNANSWERED => Self::Unanswered,
            DatabaseErrorKind::ReadOnlyTransaction
            | DatabaseErrorKind::ClosedConnection
            | DatabaseErrorKind::UnableToSendCommand => Self::Connection,
            DatabaseErrorKind::Unknown if says(&CONFLICTS) => Self::Conflict,
            DatabaseErrorKind::Unknown if says(&LOST) => Self::Connection,
            DatabaseErrorKind::Unknown if says(&FULL) => Self::Full,
            DatabaseErrorKind::Unknown if says(&BUSY) => Self::Busy,
            _ => Self::Statement,
        }
    }
}

/// An error that may be the database's.
pub(crate) trait Failure {
    /// The database's error, if it is one.
    fn database(&self) -> Option<&Error>;

    /// What it means for the database.
    fn fault(&self) -> Option<Fault> {
        self.database().map(Fault::of)
    }
}

impl Failure for Error {
    fn database(&self) -> Option<&Error> {
        Some(self)
    }
}

impl<R> Failure for Rejected<R> {
    fn database(&self) -> Option<&Error> {
        match self {
            Self::Refused(_) => None,
            Self::Database(error) => Some(error),
        }
    }
}

/// Why a request was not carried out: a decision was against it, or the database failed.
#[derive(Debug)]
pub(crate) enum Rejected<R> {
    Refused(R),
    Database(Error),
}

impl<R> From<Error> for Rejected<R> {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

impl From<Refusal> for Rejected<Refusal> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<SessionCode> for Rejected<Refusal> {
    fn from(code: SessionCode) -> Self {
        Self::Refused(code.into())
    }
}

impl From<BillingError> for Rejected<BillingError> {
    fn from(reason: BillingError) -> Self {
        Self::Refused(reason)
    }
}

/// The error of a statement that was not answered in time.
pub(crate) fn unanswered() -> Error {
    Error::DatabaseError(DatabaseErrorKind::UnableToSendCommand, Box::new(UNANSWERED.to_owned()))
}

/// The row is of another revision than a change is meant for: the transaction is rolled back.
pub(crate) const OTHER_REVISION: Error = Error::RollbackTransaction;

/// How long to wait before a transaction is begun again; `None` if its outcome stands.
pub(crate) fn again<T, E: Failure>(outcome: &Result<T, E>, attempt: &mut u32) -> Option<Duration> {
    let fault = outcome.as_ref().err().and_then(Failure::fault);
    *attempt += 1;
    if fault != Some(Fault::Conflict) || *attempt >= ATTEMPTS {
        return None;
    }
    RETRIED.fetch_add(1, Ordering::Relaxed);
    let longest = FIRST_PAUSE_MS << *attempt;
    Some(Duration::from_millis(FIRST_PAUSE_MS + fresh_number() % longest))
}

/// Transactions begun again since the last call.
pub(crate) fn retried() -> u64 {
    RETRIED.swap(0, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: DatabaseErrorKind, text: &str) -> Error {
        Error::DatabaseError(kind, Box::new(text.to_owned()))
    }

    #[test]
    fn errors_are_told_apart() {
        use DatabaseErrorKind::{
            ClosedConnection, ReadOnlyTransaction, SerializationFailure, UnableToSendCommand, Unknown,
        };
        for (kind, text, fault) in [
            (SerializationFailure, "could not serialize access due to concurrent update", Fault::Conflict),
            (Unknown, "deadlock detected", Fault::Conflict),
            (ReadOnlyTransaction, "cannot execute UPDATE in a read-only transaction", Fault::Connection),
            (ClosedConnection, "connection closed", Fault::Connection),
            (UnableToSendCommand, "error communicating with the server: broken pipe", Fault::Connection),
            (UnableToSendCommand, "error serializing parameter 0", Fault::Statement),
            (Unknown, "terminating connection due to administrator command", Fault::Connection),
            (Unknown, "the database system is not yet accepting connections", Fault::Connection),
            (Unknown, "canceling statement due to statement timeout", Fault::Busy),
            (Unknown, "could not extend file \"base/5/16384\": No space left on device", Fault::Full),
            (Unknown, "sorry, too many clients already", Fault::Busy),
            (Unknown, "out of memory", Fault::Busy),
            (Unknown, "database is locked", Fault::Busy),
            (Unknown, "database or disk is full", Fault::Full),
            (Unknown, "disk I/O error", Fault::Full),
            (Unknown, "attempt to write a readonly database", Fault::Busy),
            (Unknown, "bigint out of range", Fault::Statement),
            (Unknown, "invalid byte sequence for encoding \"UTF8\": 0x00", Fault::Statement),
            (DatabaseErrorKind::UniqueViolation, "is locked", Fault::Statement),
        ] {
            assert_eq!(Fault::of(&error(kind, text)), fault, "{text}");
        }
        assert_eq!(Fault::of(&Error::NotFound), Fault::Statement);
        assert_eq!(Fault::of(&Error::BrokenTransactionManager), Fault::Connection);
        assert_eq!(Fault::of(&unanswered()), Fault::Unanswered);
    }

    #[test]
    fn conflicts_are_tried_again_and_not_for_ever() {
        let conflict: Result<(), Error> = Err(error(DatabaseErrorKind::SerializationFailure, ""));
        let mut attempt = 0;
        let mut pauses = 0;
        while let Some(pause) = again(&conflict, &mut attempt) {
            assert!(pause <= Duration::from_millis(FIRST_PAUSE_MS + (FIRST_PAUSE_MS << ATTEMPTS)));
            pauses += 1;
        }
        assert_eq!(pauses, ATTEMPTS - 1);
        assert!(again(&Ok::<(), Error>(()), &mut 0).is_none());
        assert!(again(&Err::<(), _>(error(DatabaseErrorKind::Unknown, "out of memory")), &mut 0).is_none());
    }
}
