//! PostgreSQL and SQLite behind one set of queries (docs/01, "Database").

mod connect;
pub(crate) mod fault;
mod listener;
mod migrations;
pub(crate) mod pg;
mod pool;
mod pooler;
pub(crate) mod prepared;
pub(crate) mod sqlite;

use std::time::Duration;

pub(crate) use fault::Rejected;
pub use listener::{ListenError, Listener};
pub use migrations::{Status, migrate, status};
pub(crate) use pool::{DbConn, Held};
pub use pooler::check_pooler;

use crate::config::{Database, Invalid, key};
use crate::control::model::id::{
    CodeId, DeviceId, EndpointId, GatewayId, NodeId, PlanId, RegionId, SubscriptionId, UserId,
};
use crate::control::model::{Cutoffs, Swept};
use connect::Connector;
use pool::{PgPool, SqlitePools};

/// A sweep may take so many times as long as a request.
const SWEEP_FACTOR: u32 = 6;
/// What readiness may take in all; its attempts share it.
const READY_WITHIN: Duration = Duration::from_millis(1600);
const READY_ATTEMPTS: u32 = 2;

/// Pools of connections to either database.
#[derive(Clone)]
pub struct Db(Pools);

#[derive(Clone)]
enum Pools {
    /// The second asks whether the database is ready, also while the first is exhausted.
    Pg(PgPool, PgPool),
    Sqlite(SqlitePools),
}

/// Why the database did not answer.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("no connection to the database: {0}")]
    Unavailable(String),
    #[error(transparent)]
    Query(#[from] diesel::result::Error),
}

/// Why the database cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the database is read-only")]
    ReadOnly,
    #[error("the database does not answer")]
    Silent,
    #[error(transparent)]
    Failed(#[from] DbError),
}

/// Checks what the configuration says of the database, without connecting.
pub fn check(config: &Database) -> Result<(), Invalid> {
    if config.url.is_empty() {
        return Err(Invalid::new(key!(Database, url), "must be set"));
    }
    if sqlite_path(config.url.expose()).is_none() {
        Connector::new(config)?;
        Connector::direct(config)?;
    }
    Ok(())
}

/// What an administrator may delete.
#[derive(Clone, Copy, Debug)]
pub enum Deletable {
    User(UserId),
    Device(DeviceId),
    Plan(PlanId),
    Subscription(SubscriptionId),
    Region(RegionId),
    Node(NodeId),
    Gateway(GatewayId),
    Code(CodeId),
    Endpoint(EndpointId),
}

/// Calls a query of whichever backend a connection has, for as long as the connection's patience lasts.
macro_rules! dispatch {
    ($conn:expr, $($path:ident)::+ ( $($argument:expr),* $(,)? )) => {
        match &mut *$conn {
            conn => {
                conn.begin();
                let patience = conn.patience;
                let outcome = match conn.held.as_mut() {
                    Some($crate::control::db::Held::Pg(held)) => {
                        $crate::control::db::within(patience, $crate::control::db::pg::$($path)::+(held $(, $argument)*))
                            .await
                    }
                    Some($crate::control::db::Held::Sqlite(held)) => {
                        $crate::control::db::sqlite::$($path)::+(held $(, $argument)*).await
                    }
                    None => Err($crate::control::db::fault::unanswered().into()),
                };
                conn.end(&outcome);
                outcome
            }
        }
    };
}
pub(crate) use dispatch;

/// A query's outcome, or the error that it was given up.
pub(crate) async fn within<T, E>(patience: Option<Duration>, query: impl Future<Output = Result<T, E>>) -> Result<T, E>
where
    E: From<diesel::result::Error>,
{
    let Some(patience) = patience else { return query.await };
    tokio::time::timeout(patience, query).await.unwrap_or_else(|_| Err(fault::unanswered().into()))
}

impl Db {
    /// Opens the pools; connections are made when they are needed.
    pub fn open(config: &Database) -> Result<Self, Invalid> {
        let unusable = |error| Invalid::new(key!(Database, url), error);
        if let Some(path) = sqlite_path(config.url.expose()) {
            return SqlitePools::new(config, path).map(Pools::Sqlite).map(Self).map_err(unusable);
        }
        let connector = Connector::new(config)?;
        let own = PgPool::new(config, connector.clone(), 1).map_err(unusable)?;
        Ok(Self(Pools::Pg(PgPool::new(config, connector, config.pool_size).map_err(unusable)?, own)))
    }

    /// A connection.
    pub(crate) async fn get(&self) -> Result<DbConn, DbError> {
        match &self.0 {
            Pools::Pg(pool, _) => pool.get().await,
            Pools::Sqlite(pools) => pools.write().await,
        }
    }

    /// A connection that only reads; it waits for nobody who writes.
    pub(crate) async fn read(&self) -> Result<DbConn, DbError> {
        match &self.0 {
            Pools::Pg(pool, _) => pool.get().await,
            Pools::Sqlite(pools) => pools.read().await,
        }
    }

    /// A listener of PostgreSQL's notifications; SQLite has none and one process.
    pub fn listener(config: &Database) -> Result<Option<Listener>, Invalid> {
        if sqlite_path(config.url.expose()).is_some() {
            return Ok(None);
        }
        Ok(Some(Listener {
            connector: Connector::direct(config)?,
            patience: config.connect_timeout,
            quiet: config.listen_check,
        }))
    }

    /// Ends what is stale.
    pub async fn sweep(&self, cutoffs: Cutoffs) -> Result<Swept, DbError> {
        let mut conn = self.get().await?;
        conn.patience = conn.patience.map(|patience| patience.saturating_mul(SWEEP_FACTOR));
        Ok(dispatch!(&mut conn, sweep::sweep(cutoffs))?)
    }

    /// Whether the database takes writes, within two seconds.
    pub async fn ready(&self) -> Result<(), NotReady> {
        let mut reason = NotReady::Silent;
        for _ in 0..READY_ATTEMPTS {
            match tokio::time::timeout(READY_WITHIN / READY_ATTEMPTS, self.writable()).await {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) => reason = NotReady::ReadOnly,
                Ok(Err(error)) => reason = error.into(),
                Err(_) => reason = NotReady::Silent,
            }
        }
        Err(reason)
    }

    async fn writable(&self) -> Result<bool, DbError> {
        match &self.0 {
            Pools::Pg(pool, own) => {
                let mut conn = own.get().await?;
                let is_full = pool.is_full();
                let writable = dispatch!(&mut conn, writable(is_full))?;
                if is_full && writable {
                    pool.has_room();
                }
                Ok(writable)
            }
            Pools::Sqlite(pools) => {
                let mut conn = pools.write().await?;
                Ok(dispatch!(&mut conn, writable(false))?)
            }
        }
    }

    /// Connections in use and in all.
    pub fn usage(&self) -> (usize, usize) {
        match &self.0 {
            Pools::Pg(pool, _) => pool.usage(),
            Pools::Sqlite(pools) => pools.usage(),
        }
    }
}

/// The file of a `sqlite://` URL.
fn sqlite_path(url: &str) -> Option<&str> {
    url.strip_prefix("sqlite://")
}
