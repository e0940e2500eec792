//! PostgreSQL and SQLite behind one set of queries (docs/01, "Database").

pub(crate) mod lite;
mod migrations;
pub(crate) mod pg;
pub(crate) mod prepared;
pub mod schema;
pub mod types;

use std::time::Duration;

use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection, RecyclingMethod,
};
use diesel_async::{AsyncConnection, SimpleAsyncConnection};
use futures_util::{FutureExt, StreamExt};

pub use migrations::{Status, migrate, status};

use crate::config::{Database, read_file};
use crate::control::models::{Cutoffs, Swept};
use crate::net::tls;
use crate::telemetry::causes;

/// A pool of connections to either database.
#[derive(Clone)]
pub enum Db {
    Pg(Pool<pg::Conn>),
    Lite(Pool<lite::Conn>),
}

/// A pooled connection.
pub(crate) enum DbConn {
    Pg(Box<Object<pg::Conn>>),
    Lite(Object<lite::Conn>),
}

/// Why the database did not answer.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("no connection to the database: {0}")]
    Unavailable(String),
    #[error(transparent)]
    Query(#[from] diesel::result::Error),
}

/// A key of `[database]` that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("database.{0}: {1}")]
pub struct Unusable(pub &'static str, pub String);

/// Checks what the configuration says of the database, without connecting.
pub fn check(config: &Database) -> Result<(), Unusable> {
    if config.url.is_empty() {
        return Err(Unusable("url", "must be set".into()));
    }
    match sqlite_path(config.url.expose()) {
        Some(_) => Ok(()),
        None => pg_settings(config).map(|_| ()),
    }
}

/// Hears of events that any replica writes.
pub struct Listener {
    settings: tokio_postgres::Config,
    tls: PgTls,
}

impl Listener {
    /// Listens until the connection is lost; `heard` is called at the start, too.
    pub async fn run(&self, heard: impl Fn()) -> Result<(), String> {
        let failed = |error: diesel::result::Error| error.to_string();
        let mut conn = pg_connect(self.settings.clone(), self.tls.clone()).await.map_err(|error| error.to_string())?;
        conn.batch_execute(&format!("LISTEN {}", pg::EVENTS)).await.map_err(failed)?;
        heard();
        let mut notifications = std::pin::pin!(conn.notifications_stream());
        while let Some(notification) = notifications.next().await {
            notification.map_err(failed)?;
            heard();
        }
        Ok(())
    }
}

/// What an administrator may delete.
#[derive(Clone, Copy, Debug)]
pub enum Doomed {
    User,
    Device,
    Plan,
    Subscription,
    Region,
    Node,
    Gateway,
    Code,
    Endpoint,
}

/// Calls a query of whichever backend a connection has.
macro_rules! on {
    ($conn:expr, $($path:ident)::+ ( $($argument:expr),* $(,)? )) => {
        match $conn {
            $crate::control::db::DbConn::Pg(conn) => $crate::control::db::pg::$($path)::+(conn $(, $argument)*).await,
            $crate::control::db::DbConn::Lite(conn) => $crate::control::db::lite::$($path)::+(conn $(, $argument)*).await,
        }
    };
}
pub(crate) use on;

impl Db {
    /// Opens the pool; connections are made when they are needed.
    pub fn open(config: &Database) -> Result<Self, String> {
        let url = config.url.expose();
        if let Some(path) = sqlite_path(url) {
            let manager = AsyncDieselConnectionManager::new_with_config(path, lite_setup(config.busy_timeout));
            return pool(manager, 1, config).map(Self::Lite);
        }
        let setup = pg_setup(config).map_err(|unusable| unusable.1)?;
        let manager = AsyncDieselConnectionManager::new_with_config(url, setup);
        pool(manager, config.pool_size, config).map(Self::Pg)
    }

    pub(crate) async fn get(&self) -> Result<DbConn, DbError> {
        match self {
            Self::Pg(pool) => pool
                .get()
                .await
                .map(|conn| DbConn::Pg(Box::new(conn)))
                .map_err(|error| DbError::Unavailable(error.to_string())),
            Self::Lite(pool) => {
                pool.get().await.map(DbConn::Lite).map_err(|error| DbError::Unavailable(error.to_string()))
            }
        }
    }

    /// A listener of PostgreSQL's notifications; SQLite has none and one process.
    pub fn listener(config: &Database) -> Result<Option<Listener>, String> {
        if sqlite_path(config.url.expose()).is_some() {
            return Ok(None);
        }
        let (settings, tls) = pg_settings(config).map_err(|unusable| unusable.1)?;
        Ok(Some(Listener { settings, tls }))
    }

    /// Ends what is stale.
    pub async fn sweep(&self, cutoffs: Cutoffs) -> Result<Swept, DbError> {
        Ok(on!(&mut self.get().await?, sweep::sweep(cutoffs))?)
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), DbError> {
        on!(&mut self.get().await?, sweep::ping())?;
        Ok(())
    }

    /// Connections in use and in all.
    pub fn usage(&self) -> (usize, usize) {
        let status = match self {
            Self::Pg(pool) => pool.status(),
            Self::Lite(pool) => pool.status(),
        };
        (status.size.saturating_sub(status.available), status.max_size)
    }
}

fn pool<C>(manager: AsyncDieselConnectionManager<C>, size: usize, config: &Database) -> Result<Pool<C>, String>
where
    C: PoolableConnection + Send + 'static,
    AsyncDieselConnectionManager<C>: deadpool::managed::Manager<Type = C>,
{
    Pool::builder(manager)
        .max_size(size)
        .wait_timeout(Some(config.acquire_timeout))
        .create_timeout(Some(config.acquire_timeout))
        .recycle_timeout(Some(config.acquire_timeout))
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .map_err(|error| error.to_string())
}

/// The file of a `sqlite://` URL.
fn sqlite_path(url: &str) -> Option<&str> {
    url.strip_prefix("sqlite://")
}

fn lite_setup(busy: Duration) -> ManagerConfig<lite::Conn> {
    let mut config = ManagerConfig::default();
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = Box::new(move |path| lite_connect(path.to_owned(), busy).boxed());
    config
}

async fn lite_connect(path: String, busy: Duration) -> diesel::ConnectionResult<lite::Conn> {
    let mut conn = lite::Conn::establish(&path).await?;
    let setup = format!(
        "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;",
        busy.as_millis()
    );
    conn.batch_execute(&setup).await.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}

type PgTls = tokio_postgres_rustls::MakeRustlsConnect;

fn pg_settings(config: &Database) -> Result<(tokio_postgres::Config, PgTls), Unusable> {
    let url = config
        .url
        .expose()
        .replace("sslmode=verify-full", "sslmode=require")
        .replace("sslmode=verify-ca", "sslmode=require");
    let mut settings: tokio_postgres::Config =
        url.parse().map_err(|error| Unusable("url", format!("not a PostgreSQL URL: {}", causes(&error))))?;
    let ca = match config.ca.as_str() {
        "" => None,
        path => Some(read_file(path).map_err(|reason| Unusable("ca", reason))?),
    };
    let clear = settings.get_ssl_mode() == tokio_postgres::config::SslMode::Disable;
    let tls = if clear { tls::trusting_nobody() } else { tls::client(ca.as_deref()) };
    let tls = PgTls::new(tls.map_err(|reason| Unusable("ca", reason))?.as_ref().clone());
    settings.application_name("httvps");
    settings.connect_timeout(config.acquire_timeout);
    let options = settings.get_options().unwrap_or_default();
    let timeout = config.statement_timeout.as_millis();
    let options = format!("{options} -c statement_timeout={timeout} -c enable_seqscan=off -c jit=off");
    settings.options(options.trim());
    Ok((settings, tls))
}

fn pg_setup(config: &Database) -> Result<ManagerConfig<pg::Conn>, Unusable> {
    let (settings, tls) = pg_settings(config)?;
    let mut manager = ManagerConfig::default();
    manager.recycling_method = RecyclingMethod::Fast;
    manager.custom_setup = Box::new(move |_| pg_connect(settings.clone(), tls.clone()).boxed());
    Ok(manager)
}

async fn pg_connect(settings: tokio_postgres::Config, tls: PgTls) -> diesel::ConnectionResult<pg::Conn> {
    let (client, connection) =
        settings.connect(tls).await.map_err(|error| diesel::ConnectionError::BadConnection(causes(&error)))?;
    pg::Conn::try_from_client_and_connection(client, connection).await
}
