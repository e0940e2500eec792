//! Connection poolers before PostgreSQL, such as `PgBouncer` (docs/01, "Connection poolers").

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::{Connector, Unreachable};
use super::sqlite_path;
use crate::config::{Database, Invalid, key};

const TRIES: u32 = 3;
/// A pooler that has no server connection to give does not hold up the start.
const LONGEST: Duration = Duration::from_secs(5);

/// Refuses a pooler in transaction mode that cannot work; with one that can, the role takes the settings that its
/// server connections need. A database that cannot be reached is not refused here.
pub async fn check_pooler(config: &Database) -> Result<(), Invalid> {
    if sqlite_path(config.url.expose()).is_some() {
        return Ok(());
    }
    let connector = Connector::new(config)?;
    match tokio::time::timeout(LONGEST, mode(&connector)).await {
        Ok(Ok(Mode::Transaction { keeps_statements: false })) => Err(Invalid::new(
            key!(Database, url),
            "leads to a connection pooler in transaction mode that does not keep prepared statements: set its pool_mode to \
             session, or use PgBouncer 1.21 or newer with max_prepared_statements above 0",
        )),
        Ok(Ok(Mode::Transaction { .. })) if config.listen_url.is_empty() => Err(Invalid::new(
            key!(Database, listen_url),
            "database.url leads to a connection pooler in transaction mode, through which nobody can LISTEN: give the URL of \
             the server itself, or set the pooler's pool_mode to session",
        )),
        Ok(Ok(Mode::Transaction { .. })) => {
            if let Err(reason) = settle(&Connector::direct(config)?, config.statement_timeout).await {
                tracing::warn!(%reason, "the role's settings stay as they are: docs/01, \"Connection poolers\"");
            }
            Ok(())
        }
        Ok(Ok(Mode::Session) | Err(_)) | Err(_) => Ok(()),
    }
}

/// Why it is not known what is in between.
#[derive(Debug, thiserror::Error)]
enum PoolerError {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error(transparent)]
    Failed(#[from] tokio_postgres::Error),
}

/// What a client sees of the way to the server.
enum Mode {
    /// A connection has a server process of its own.
    Session,
    /// Connections share server processes.
    Transaction { keeps_statements: bool },
}

async fn mode(connector: &Connector) -> Result<Mode, PoolerError> {
    let (first, second) = (client(connector).await?, client(connector).await?);
    let language = first.simple_query("SHOW lc_messages").await?;
    if let Some(language) = value(&language).filter(|language| !speaks_english(language)) {
        tracing::warn!(language, "the server's messages are not in English: docs/01, \"Connections to PostgreSQL\"");
    }
    for _ in 0..TRIES {
        let own = process(&first).await?;
        let others = process(&second).await?;
        if own == others || process(&first).await? != own {
            return keeps_statements(&first, &second).await;
        }
    }
    Ok(Mode::Session)
}

fn speaks_english(language: &str) -> bool {
    ["", "C", "POSIX"].contains(&language) || language.starts_with("C.") || language.starts_with("en")
}

/// A pooler that keeps statements gives them names of its own.
async fn keeps_statements(first: &Client, second: &Client) -> Result<Mode, PoolerError> {
    let Ok(statement) = first.prepare("SELECT 1").await else {
        return Ok(Mode::Transaction { keeps_statements: false });
    };
    let sql = "SELECT count(*) FROM pg_prepared_statements WHERE name ~ '^s[0-9]+$'";
    let passed_on = value(&second.simple_query(sql).await?);
    drop(statement);
    Ok(Mode::Transaction { keeps_statements: passed_on.as_deref() == Some("0") })
}

async fn client(connector: &Connector) -> Result<Client, PoolerError> {
    let (client, connection) = connector.start().await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
    Ok(client)
}

/// The server process that answers a client in a transaction.
async fn process(client: &Client) -> Result<Option<String>, PoolerError> {
    Ok(value(&client.simple_query("BEGIN; SELECT pg_backend_pid(); COMMIT").await?))
}

fn value(answer: &[SimpleQueryMessage]) -> Option<String> {
    answer.iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        row.get(0).map(str::to_owned)
    })
}

/// Gives the role the settings of a session, in this database: they reach server connections that a pooler makes.
async fn settle(direct: &Connector, statement_timeout: Duration) -> Result<(), PoolerError> {
    let client = client(direct).await?;
    let millis = statement_timeout.as_millis();
    let sql = format!(
        "DO $$ BEGIN IF (SELECT setting FROM pg_settings WHERE name = 'statement_timeout') <> '{millis}' \
         OR current_setting('enable_seqscan')::boolean OR current_setting('jit')::boolean THEN \
         EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET statement_timeout = {millis}', current_database()); \
         EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET enable_seqscan = off', current_database()); \
         EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET jit = off', current_database()); \
         END IF; END $$"
    );
    Ok(client.batch_execute(&sql).await?)
}
