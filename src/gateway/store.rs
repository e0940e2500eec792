//! Sealed entries on disk, by name: what a gateway needs to serve without the control plane (docs/04, "On disk").

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Text};
use tokio::task::JoinError;

use super::sqlite::{SqliteError, SqliteFault};
use crate::digest::{NoRandomness, fresh_bytes};
use crate::seal::{SealError, Sealer};

const DATABASE: &str = "state.db";
const KEY: &str = "state.key";
/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 2] = ["state.db-wal", "state.db-shm"];
const SETUP: &str = "PRAGMA busy_timeout = 2000; PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = NORMAL; \
    CREATE TABLE IF NOT EXISTS entries (name TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;";
const UPSERT: &str =
    "INSERT INTO entries (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// Names and what they stand for.
pub(super) type Entries = Vec<(String, Vec<u8>)>;
/// What is to be written; no value removes the name.
pub(super) type Changes = Vec<(String, Option<Vec<u8>>)>;

/// The file of entries and its key; one process owns it.
pub(super) struct Store {
    /// None while another process may have the file.
    conn: Arc<Mutex<Option<SqliteConnection>>>,
    sealer: Arc<Sealer>,
    /// None if it is in memory.
    path: Option<PathBuf>,
    /// Why nothing of it reaches the disk.
    pub(super) unkept: Option<StoreError>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Binary)]
    value: Vec<u8>,
}

/// Why a store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// A file of it cannot be had.
    #[error("{file}: {source}")]
    File { file: &'static str, source: io::Error },
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    #[error("{KEY}: {0}")]
    Key(#[source] SealError),
    /// What is in it was not sealed with its key.
    #[error("{DATABASE}: {0}")]
    Sealed(#[source] SealError),
    #[error("{DATABASE}: {0}")]
    Database(#[from] SqliteError),
    #[error("it is closed")]
    Closed,
    #[error(transparent)]
    Task(#[from] JoinError),
}

impl StoreError {
    /// Whether what is there will never be of use; else it may be sound, but this process cannot have it now.
    fn is_damage(&self) -> bool {
        match self {
            Self::Key(_) | Self::Sealed(_) => true,
            Self::Database(error) => error.fault() == SqliteFault::Damaged,
            Self::File { .. } | Self::Randomness(_) | Self::Closed | Self::Task(_) => false,
        }
    }
}

impl Store {
    /// Opens `state.db` and its key in a folder, with what is in it. What is damaged is replaced by an empty store; where the
    /// folder cannot be used, nothing is kept.
    pub(super) fn open(folder: &Path) -> Result<(Self, Entries), StoreError> {
        let opened = Self::read(folder).or_else(|error| {
            if !error.is_damage() {
                return Err(error);
            }
            tracing::warn!(reason = %error, "offline state is damaged; starting with an empty one");
            for file in [DATABASE, KEY].into_iter().chain(COMPANIONS) {
                remove(&folder.join(file)).map_err(|source| StoreError::File { file, source })?;
            }
            Self::read(folder)
        });
        opened.or_else(|error| {
            tracing::error!(reason = %error, "failed to open the offline state; keeping none until the next start");
            let (store, entries) = Self::in_memory()?;
            Ok((Self { unkept: Some(error), ..store }, entries))
        })
    }

    fn read(folder: &Path) -> Result<(Self, Entries), StoreError> {
        let key = key(&folder.join(KEY)).map_err(|source| StoreError::File { file: KEY, source })?;
        let path = folder.join(DATABASE);
        own(&path).map_err(|source| StoreError::File { file: DATABASE, source })?;
        let (store, entries) = Self::with(connect(&path)?, &key)?;
        Ok((Self { path: Some(path), ..store }, entries))
    }

    fn in_memory() -> Result<(Self, Entries), StoreError> {
        let key: [u8; 32] = fresh_bytes()?;
        Self::with(connect(Path::new(":memory:"))?, &key)
    }

    fn with(mut conn: SqliteConnection, key: &[u8]) -> Result<(Self, Entries), StoreError> {
        let sealer = Sealer::new(key).map_err(StoreError::Key)?;
        let rows = diesel::sql_query("SELECT name, value FROM entries").load(&mut conn);
        let rows: Vec<Row> = rows.map_err(SqliteError::from)?;
        let opened = rows.into_iter().map(|row| {
            let value = sealer.open(row.name.as_bytes(), &row.value).map_err(StoreError::Sealed)?;
            Ok((row.name, value))
        });
        let entries = opened.collect::<Result<_, StoreError>>()?;
        let conn = Arc::new(Mutex::new(Some(conn)));
        Ok((Self { conn, sealer: Arc::new(sealer), path: None, unkept: None }, entries))
    }

    /// Removes everything.
    pub(super) fn clear(&self) -> Result<(), StoreError> {
        let mut conn = self.conn.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(conn) = conn.as_mut() else { return Ok(()) };
        Ok(conn.batch_execute("DELETE FROM entries").map_err(SqliteError::from)?)
    }

    /// Closes the file, so that another process can have it; the next write opens it again.
    pub(super) fn close(&self) {
        if self.path.is_some() {
            *self.conn.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Writes all of it, or nothing; gives it back if it could not be written.
    pub(super) async fn write(&self, changes: Changes) -> Result<(), (Changes, StoreError)> {
        let (conn, sealer, path) = (Arc::clone(&self.conn), Arc::clone(&self.sealer), self.path.clone());
        let written = tokio::task::spawn_blocking(move || {
            let mut conn = conn.lock().unwrap_or_else(PoisonError::into_inner);
            if let (None, Some(path)) = (&*conn, path) {
                match connect(&path) {
                    Ok(opened) => *conn = Some(opened),
                    Err(error) => return Err((changes, error.into())),
                }
            }
            let Some(conn) = conn.as_mut() else { return Err((changes, StoreError::Closed)) };
            let result = atomically(conn, |conn| put(conn, &sealer, &changes));
            result.map_err(|error| (changes, SqliteError::from(error).into()))
        });
        written.await.unwrap_or_else(|error| Err((Vec::new(), error.into())))
    }
}

fn connect(path: &Path) -> Result<SqliteConnection, SqliteError> {
    let mut conn = SqliteConnection::establish(&path.to_string_lossy())?;
    conn.batch_execute(SETUP)?;
    Ok(conn)
}

/// All or nothing. A full disk rolls back by itself, which diesel's transactions take for a broken connection.
pub(super) fn atomically<T>(
    conn: &mut SqliteConnection,
    work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
) -> QueryResult<T> {
    conn.batch_execute("BEGIN IMMEDIATE")?;
    let done = work(conn).and_then(|value| conn.batch_execute("COMMIT").map(|()| value));
    if done.is_err()
        && let Err(error) = conn.batch_execute("ROLLBACK")
    {
        tracing::debug!(%error, "SQLite has already rolled back");
    }
    done
}

fn put(conn: &mut SqliteConnection, sealer: &Sealer, changes: &Changes) -> QueryResult<()> {
    for (name, value) in changes {
        let query = match value {
            Some(value) => {
                let sealed = sealer
                    .seal(name.as_bytes(), value)
                    .map_err(|error| diesel::result::Error::SerializationError(error.into()))?;
                diesel::sql_query(UPSERT).bind::<Text, _>(name).bind::<Binary, _>(sealed).execute(conn)
            }
            None => diesel::sql_query("DELETE FROM entries WHERE name = ?").bind::<Text, _>(name).execute(conn),
        };
        query?;
    }
    Ok(())
}

/// The key in a file; a fresh one if there is no file.
fn key(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read,
    }
    let key: [u8; 32] = fresh_bytes().map_err(io::Error::other)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key.to_vec())
}

/// Makes the file, for this user alone, before SQLite would for everybody.
fn own(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(error: &StoreError) -> Option<SqliteFault> {
        if let StoreError::Database(error) = error { Some(error.fault()) } else { None }
    }

    #[tokio::test]
    async fn entries_are_kept_until_they_are_removed_and_never_in_clear() {
        let folder = tempfile::tempdir().unwrap();
        let (store, entries) = Store::open(folder.path()).unwrap();
        assert_eq!(entries, []);
        let entry = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        store.write(vec![entry("nodes", "secret"), entry("device", "a")]).await.unwrap();
        store.write(vec![entry("device", "b"), ("nodes".into(), None), entry("keys", "secret")]).await.unwrap();
        drop(store);
        let (store, mut entries) = Store::open(folder.path()).unwrap();
        entries.sort();
        assert_eq!(entries, [("device".to_owned(), b"b".to_vec()), ("keys".to_owned(), b"secret".to_vec())]);
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(6).any(|window| window == b"secret"));
        }
        drop(store);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_replaced() {
        for damage in [DATABASE, KEY] {
            let folder = tempfile::tempdir().unwrap();
            let (store, _) = Store::open(folder.path()).unwrap();
            store.write(vec![("device".into(), Some(vec![1]))]).await.unwrap();
            drop(store);
            for content in [vec![9; 32], vec![9; 5000], Vec::new()] {
                std::fs::write(folder.path().join(damage), content).unwrap();
                let (store, entries) = Store::open(folder.path()).unwrap();
                assert_eq!(entries, [], "{damage}");
                store.write(vec![("device".into(), Some(vec![1]))]).await.unwrap();
                drop(store);
                let (_, entries) = Store::open(folder.path()).unwrap();
                assert_eq!(entries.len(), 1, "{damage}");
            }
        }
    }

    #[tokio::test]
    async fn what_another_process_holds_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        store.write(vec![("device".into(), Some(vec![1]))]).await.unwrap();
        let (other, entries) = Store::open(folder.path()).unwrap();
        assert!(entries.is_empty());
        assert_eq!(fault(other.unkept.as_ref().unwrap()), Some(SqliteFault::Locked));
        other.write(vec![("device".into(), Some(vec![2]))]).await.unwrap();
        drop((store, other));
        assert_eq!(Store::open(folder.path()).unwrap().1, [("device".to_owned(), vec![1])]);
    }

    #[tokio::test]
    async fn what_is_closed_can_be_had_by_another_and_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        store.write(vec![("device".into(), Some(vec![1]))]).await.unwrap();
        store.close();
        let (other, entries) = Store::open(folder.path()).unwrap();
        assert!(entries == [("device".to_owned(), vec![1])] && other.unkept.is_none());
        assert!(store.write(vec![("device".into(), Some(vec![2]))]).await.is_err());
        drop(other);
        store.write(vec![("device".into(), Some(vec![2]))]).await.unwrap();
        drop(store);
        assert_eq!(Store::open(folder.path()).unwrap().1, [("device".to_owned(), vec![2])]);
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let limit = |pages: u32| {
            let mut conn = store.conn.lock().unwrap();
            conn.as_mut().unwrap().batch_execute(&format!("PRAGMA max_page_count = {pages}")).unwrap();
        };
        limit(2);
        let changes = vec![("device".to_owned(), Some(vec![1; 100_000]))];
        let (back, failed) = store.write(changes.clone()).await.unwrap_err();
        assert_eq!((&back, fault(&failed)), (&changes, Some(SqliteFault::Full)));
        limit(1000);
        store.write(back).await.unwrap();
    }
}
