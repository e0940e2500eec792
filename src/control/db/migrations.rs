use diesel::backend::Backend;
use diesel::connection::SimpleConnection;
use diesel::migration::{MigrationSource, MigrationVersion};
use diesel::{Connection, SqliteConnection};
use diesel_async::{AsyncMigrationHarness, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use serde::Serialize;

use super::connect::Connector;
use super::sqlite_path;
use crate::config::Database;

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");
const LOCK: i64 = 0x4854_5456_5053;

/// Where a database's schema stands.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The newest migration that was applied.
    pub current: Option<String>,
    /// The newest migration that this binary knows.
    pub latest: Option<String>,
    /// Migrations that this binary knows and the database lacks.
    pub pending: Vec<String>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Brings the schema up to date; gives what was applied. Two processes at once do it once.
pub async fn migrate(config: &Database) -> Result<Vec<String>, Failure> {
    if let Some(path) = sqlite_path(config.url.expose()) {
        return sqlite(path.to_owned(), config.busy_timeout, |conn| {
            conn.exclusive_transaction(|conn| names(conn.run_pending_migrations(SQLITE)))
        })
        .await;
    }
    let mut conn = Connector::direct(config)?.connect().await?;
    conn.batch_execute(&format!("SET statement_timeout = 0; SELECT pg_advisory_lock({LOCK})")).await?;
    let mut harness = AsyncMigrationHarness::new(conn);
    let applied = names(harness.run_pending_migrations(POSTGRES));
    harness.into_inner().batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})")).await?;
    applied
}

/// Compares the schema with what this binary knows.
pub async fn status(config: &Database) -> Result<Status, Failure> {
    if let Some(path) = sqlite_path(config.url.expose()) {
        return sqlite(path.to_owned(), config.busy_timeout, |conn| compare(conn, &SQLITE)).await;
    }
    compare(&mut AsyncMigrationHarness::new(Connector::direct(config)?.connect().await?), &POSTGRES)
}

async fn sqlite<T: Send + 'static>(
    path: String,
    busy: std::time::Duration,
    work: impl FnOnce(&mut SqliteConnection) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(move || {
        let mut conn = SqliteConnection::establish(&path)?;
        conn.batch_execute(&format!(
            "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA foreign_keys = OFF;",
            busy.as_millis()
        ))?;
        work(&mut conn)
    })
    .await?
}

fn names(applied: Result<Vec<MigrationVersion<'_>>, Failure>) -> Result<Vec<String>, Failure> {
    Ok(applied?.iter().map(ToString::to_string).collect())
}

fn compare<DB: Backend, H: MigrationHarness<DB>>(
    harness: &mut H,
    source: &EmbeddedMigrations,
) -> Result<Status, Failure> {
    let applied = harness.applied_migrations()?;
    let known = MigrationSource::<DB>::migrations(source)?;
    let mut names: Vec<(String, String)> =
        known.iter().map(|migration| (migration.name().version().to_string(), migration.name().to_string())).collect();
    names.sort();
    let is_applied = |version: &str| applied.iter().any(|applied| applied.to_string() == version);
    Ok(Status {
        current: applied.iter().map(ToString::to_string).max(),
        latest: names.last().map(|(version, _)| version.clone()),
        pending: names.iter().filter(|(version, _)| !is_applied(version)).map(|(_, name)| name.clone()).collect(),
    })
}
