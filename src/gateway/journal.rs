//! Unreported usage on disk, so that a crash loses at most the last flush (docs/04, "Accounting").

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use time::OffsetDateTime;
use tokio::task::JoinError;
use uuid::Uuid;

use super::sqlite::{SqliteError, SqliteFault};
use super::store::atomically;
use crate::frame::Token;

/// More processes than ever drain at a time.
const FILES_MAX: usize = 64;

const SETUP: &str = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = NORMAL; BEGIN EXCLUSIVE; \
    CREATE TABLE IF NOT EXISTS sessions (id BLOB PRIMARY KEY NOT NULL, device BLOB NOT NULL, up BIGINT NOT NULL, \
    down BIGINT NOT NULL, started BIGINT NOT NULL, seen BIGINT NOT NULL, ended BIGINT) WITHOUT ROWID; \
    CREATE TABLE IF NOT EXISTS tokens (id BLOB PRIMARY KEY NOT NULL, token TEXT NOT NULL) WITHOUT ROWID; \
    CREATE TABLE IF NOT EXISTS written (id INTEGER PRIMARY KEY NOT NULL, at BIGINT NOT NULL); COMMIT;";

const UPSERT: &str = "INSERT INTO sessions (id, device, up, down, started, seen, ended) VALUES (?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (id) DO UPDATE SET up = excluded.up, down = excluded.down, seen = excluded.seen, ended = excluded.ended";

/// Written with nothing else, too, which shows whether it can be.
const WRITTEN: &str = "INSERT INTO written (id, at) VALUES (0, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at";

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: SqliteError },
    #[error("{}: all of {FILES_MAX} journals are in use", .0.display())]
    InUse(PathBuf),
    #[error(transparent)]
    Statement(#[from] SqliteError),
    #[error(transparent)]
    Task(#[from] JoinError),
}

/// A session's counters as they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalEntry {
    pub(crate) session: Uuid,
    pub(crate) device: Uuid,
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) started_at: OffsetDateTime,
    pub(crate) ended_at: Option<OffsetDateTime>,
}

/// Sessions, and tokens of those that the control plane does not know.
type Leftovers = (Vec<JournalEntry>, Vec<(Uuid, Token)>);

/// A process's journal: a file of its own among those of the folder.
#[derive(Clone)]
pub(crate) struct Journal {
    conn: Arc<Mutex<SqliteConnection>>,
    folder: Arc<Path>,
    number: usize,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Binary)]
    id: Vec<u8>,
    #[diesel(sql_type = Binary)]
    device: Vec<u8>,
    #[diesel(sql_type = BigInt)]
    up: i64,
    #[diesel(sql_type = BigInt)]
    down: i64,
    #[diesel(sql_type = BigInt)]
    started: i64,
    #[diesel(sql_type = BigInt)]
    seen: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    ended: Option<i64>,
}

#[derive(QueryableByName)]
struct TokenRow {
    #[diesel(sql_type = Binary)]
    id: Vec<u8>,
    #[diesel(sql_type = Text)]
    token: String,
}

impl Journal {
    /// Opens the first of `usage.db`, `usage-1.db`, … in a folder that no process has.
    pub(crate) fn open(folder: &Path) -> Result<Self, JournalError> {
        for number in 0..FILES_MAX {
            if let Some(conn) = take(folder, number)? {
                return Ok(Self { conn: Arc::new(Mutex::new(conn)), folder: folder.into(), number });
            }
        }
        Err(JournalError::InUse(folder.to_owned()))
    }

    /// Takes over what processes that are gone have left in their files, which are empty then: sessions as those of
    /// [`Self::leftovers`].
    pub(crate) async fn adopt(&self, now: OffsetDateTime) -> Result<Leftovers, JournalError> {
        let (mut entries, mut tokens) = (Vec::new(), Vec::new());
        for number in 0..FILES_MAX {
            let there = file(&self.folder, number).exists();
            if number == self.number || !there {
                continue;
            }
            let folder = Arc::clone(&self.folder);
            let taken = tokio::task::spawn_blocking(move || take(&folder, number)).await;
            let Some(conn) = taken?? else { continue };
            let left = Self { conn: Arc::new(Mutex::new(conn)), folder: Arc::clone(&self.folder), number };
            let (sessions, of_sessions) = left.leftovers().await?;
            if sessions.is_empty() {
                continue;
            }
            self.keep(sessions.clone(), of_sessions.clone(), now).await?;
            left.forget(sessions.iter().map(|entry| entry.session).collect()).await?;
            entries.extend(sessions);
            tokens.extend(of_sessions);
        }
        Ok((entries, tokens))
    }

    /// What an earlier process left: sessions that are over, at the latest when they were last seen, and tokens of those
    /// that the control plane does not know.
    pub(crate) async fn leftovers(&self) -> Result<Leftovers, JournalError> {
        self.with(|conn| {
            let rows: Vec<Row> = diesel::sql_query("SELECT * FROM sessions").load(conn)?;
            let tokens: Vec<TokenRow> = diesel::sql_query("SELECT * FROM tokens").load(conn)?;
            let token = |row: TokenRow| Some((Uuid::from_slice(&row.id).ok()?, Token::from(row.token)));
            Ok((rows.iter().filter_map(entry).collect(), tokens.into_iter().filter_map(token).collect()))
        })
        .await
    }

    /// Keeps counters as they are now, and tokens of sessions that the control plane does not know.
    pub(crate) async fn keep(
        &self,
        entries: Vec<JournalEntry>,
        tokens: Vec<(Uuid, Token)>,
        now: OffsetDateTime,
    ) -> Result<(), JournalError> {
        let seen = millis(now);
        self.with(move |conn| {
            atomically(conn, |conn| {
                diesel::sql_query(WRITTEN).bind::<BigInt, _>(seen).execute(conn)?;
                for entry in &entries {
                    diesel::sql_query(UPSERT)
                        .bind::<Binary, _>(entry.session.as_bytes().as_slice())
                        .bind::<Binary, _>(entry.device.as_bytes().as_slice())
                        .bind::<BigInt, _>(i64::try_from(entry.up).unwrap_or(i64::MAX))
                        .bind::<BigInt, _>(i64::try_from(entry.down).unwrap_or(i64::MAX))
                        .bind::<BigInt, _>(millis(entry.started_at))
                        .bind::<BigInt, _>(seen)
                        .bind::<Nullable<BigInt>, _>(entry.ended_at.map(millis))
                        .execute(conn)?;
                }
                for (session, token) in &tokens {
                    diesel::sql_query("INSERT INTO tokens (id, token) VALUES (?, ?) ON CONFLICT DO NOTHING")
                        .bind::<Binary, _>(session.as_bytes().as_slice())
                        .bind::<Text, _>(token.expose())
                        .execute(conn)?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Drops sessions that the control plane has taken for good.
    pub(crate) async fn forget(&self, sessions: Vec<Uuid>) -> Result<(), JournalError> {
        self.with(move |conn| {
            atomically(conn, |conn| {
                for session in &sessions {
                    for table in ["sessions", "tokens"] {
                        diesel::sql_query(format!("DELETE FROM {table} WHERE id = ?"))
                            .bind::<Binary, _>(session.as_bytes().as_slice())
                            .execute(conn)?;
                    }
                }
                Ok(())
            })
        })
        .await
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let conn = Arc::clone(&self.conn);
        let done = tokio::task::spawn_blocking(move || work(&mut conn.lock().unwrap_or_else(PoisonError::into_inner)));
        Ok(done.await?.map_err(SqliteError::from)?)
    }
}

fn file(folder: &Path, number: usize) -> PathBuf {
    folder.join(if number == 0 { "usage.db".to_owned() } else { format!("usage-{number}.db") })
}

/// Opens a file, unless another process has it.
fn take(folder: &Path, number: usize) -> Result<Option<SqliteConnection>, JournalError> {
    let path = file(folder, number);
    match set_up(&path) {
        Ok(conn) => Ok(Some(conn)),
        Err(error) if error.fault() == SqliteFault::Locked => Ok(None),
        Err(source) => Err(JournalError::Open { path, source }),
    }
}

fn set_up(path: &Path) -> Result<SqliteConnection, SqliteError> {
    let mut conn = SqliteConnection::establish(&path.to_string_lossy())?;
    conn.batch_execute(SETUP)?;
    Ok(conn)
}

fn millis(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

fn moment(millis: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn entry(row: &Row) -> Option<JournalEntry> {
    Some(JournalEntry {
        session: Uuid::from_slice(&row.id).ok()?,
        device: Uuid::from_slice(&row.device).ok()?,
        up: row.up.unsigned_abs(),
        down: row.down.unsigned_abs(),
        started_at: moment(row.started),
        ended_at: Some(moment(row.ended.unwrap_or(row.seen))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_counters_survive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let started_at = moment(1_000);
        let mut entry = JournalEntry {
            session: Uuid::now_v7(),
            device: Uuid::now_v7(),
            up: 1,
            down: 2,
            started_at,
            ended_at: None,
        };
        let token = Token::from("secret".to_owned());
        journal.keep(vec![entry], vec![(entry.session, token.clone())], moment(2_000)).await.unwrap();
        entry.up = 10;
        journal.keep(vec![entry], Vec::new(), moment(3_000)).await.unwrap();
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        let (left, tokens) = journal.leftovers().await.unwrap();
        assert_eq!(tokens, [(entry.session, token)]);
        assert_eq!((left.len(), left[0].up, left[0].down), (1, 10, 2));
        assert!(left[0].ended_at.is_some_and(|at| at > started_at));
        journal.forget(vec![entry.session]).await.unwrap();
        assert_eq!(journal.leftovers().await.unwrap(), (Vec::new(), Vec::new()));
    }

    #[tokio::test]
    async fn each_process_has_a_file_and_adopts_those_of_others_that_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Journal::open(folder.path()).unwrap();
        let (first, second) = (open(), open());
        assert_eq!((first.number, second.number), (0, 1));
        let entry = JournalEntry {
            session: Uuid::now_v7(),
            device: Uuid::now_v7(),
            up: 1,
            down: 2,
            started_at: moment(1_000),
            ended_at: None,
        };
        let token = (entry.session, Token::from("secret".to_owned()));
        first.keep(vec![entry], vec![token.clone()], moment(2_000)).await.unwrap();
        assert_eq!(second.adopt(moment(3_000)).await.unwrap(), (Vec::new(), Vec::new()), "its owner lives");
        drop(first);
        let adopted = second.adopt(moment(3_000)).await.unwrap();
        assert_eq!(adopted, (vec![JournalEntry { ended_at: Some(moment(2_000)), ..entry }], vec![token.clone()]));
        assert_eq!(second.adopt(moment(4_000)).await.unwrap(), (Vec::new(), Vec::new()), "once");
        assert_eq!(open().leftovers().await.unwrap(), (Vec::new(), Vec::new()));
        drop(second);
        let (first, second) = (open(), open());
        assert_eq!((first.number, second.number), (0, 1));
        assert_eq!(second.leftovers().await.unwrap(), adopted, "they are in the adopter's file");
    }

    #[tokio::test]
    async fn a_journal_that_was_full_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let entry = || JournalEntry {
            session: Uuid::now_v7(),
            device: Uuid::now_v7(),
            up: 1,
            down: 2,
            started_at: moment(1_000),
            ended_at: None,
        };
        let limit = |pages: u32| {
            let limit = format!("PRAGMA max_page_count = {pages}");
            journal.conn.lock().unwrap().batch_execute(&limit).unwrap();
        };
        limit(10);
        let entries: Vec<JournalEntry> = (0..2000).map(|_| entry()).collect();
        let failed = journal.keep(entries.clone(), Vec::new(), moment(2_000)).await.unwrap_err();
        assert!(matches!(&failed, JournalError::Statement(error) if error.fault() == SqliteFault::Full), "{failed}");
        limit(1000);
        journal.keep(entries, Vec::new(), moment(3_000)).await.unwrap();
        assert_eq!(journal.leftovers().await.unwrap().0.len(), 2000);
    }
}
