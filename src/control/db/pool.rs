//! Pools of connections, and what is thrown away of them (docs/01, "When the database misbehaves").

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool::managed::{BuildError, Hook, HookError, Manager};
use diesel_async::pooled_connection::deadpool::{Object, Pool, PoolBuilder};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection, RecyclingMethod,
};
use diesel_async::{AsyncConnection, SimpleAsyncConnection};
use futures_util::FutureExt;

use super::connect::Connector;
use super::fault::{Failure, Fault};
use super::{DbError, pg, sqlite};
use crate::config::Database;

/// What has gone wrong with connections of a pool, for the others.
#[derive(Debug)]
pub(crate) struct Trust {
    begun: Instant,
    /// Connections made before this are not used again.
    made_ms: AtomicU64,
    /// Connections used before this are asked whether they are there before they are used again.
    used_ms: AtomicU64,
    /// The server's disk took no more.
    full: AtomicBool,
}

impl Trust {
    fn new() -> Self {
        Self { begun: Instant::now(), made_ms: 0.into(), used_ms: 0.into(), full: false.into() }
    }

    fn at(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.begun).as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes what a query has come to; whether its connection is of no more use.
    fn heard(&self, fault: Option<Fault>) -> bool {
        let now = self.at(Instant::now()).saturating_add(1);
        match fault {
            Some(Fault::Connection) => self.made_ms.fetch_max(now, Ordering::Relaxed),
            Some(Fault::Unanswered) => self.used_ms.fetch_max(now, Ordering::Relaxed),
            Some(Fault::Full) => {
                self.full.store(true, Ordering::Relaxed);
                return false;
            }
            Some(Fault::Busy | Fault::Conflict | Fault::Statement) | None => return false,
        };
        true
    }

    fn covers(&self, made: Instant) -> bool {
        self.made_ms.load(Ordering::Relaxed) <= self.at(made)
    }

    fn doubts(&self, used: Instant) -> bool {
        self.used_ms.load(Ordering::Relaxed) > self.at(used)
    }
}

/// A pool of PostgreSQL connections.
#[derive(Clone)]
pub(crate) struct PgPool {
    pool: Pool<pg::Conn>,
    trust: Arc<Trust>,
    acquire: Duration,
    answer: Duration,
}

/// Pools of SQLite connections: one that writes, and some that read whatever it does.
#[derive(Clone)]
pub(crate) struct SqlitePools {
    write: Pool<sqlite::Conn>,
    read: Pool<sqlite::Conn>,
}

/// A pooled connection. One that is dropped in the middle of a query, or has failed, does not go back.
pub(crate) struct DbConn {
    /// Gone only while it is dropped.
    pub(crate) held: Option<Held>,
    running: bool,
    spoiled: bool,
    /// How long queries may take until they are given up; for ever with SQLite, which has its own limit.
    pub(crate) patience: Option<Duration>,
    trust: Option<Arc<Trust>>,
}

/// A connection of either kind.
pub(crate) enum Held {
    Pg(Box<Object<pg::Conn>>),
    Sqlite(Object<sqlite::Conn>),
}

impl DbConn {
    fn new(held: Held, patience: Option<Duration>, trust: Option<Arc<Trust>>) -> Self {
        Self { held: Some(held), running: false, spoiled: false, patience, trust }
    }

    /// A query begins.
    pub(crate) fn begin(&mut self) {
        self.running = true;
    }

    /// A query has ended.
    pub(crate) fn end<T, E: Failure>(&mut self, outcome: &Result<T, E>) {
        self.running = false;
        let fault = outcome.as_ref().err().and_then(Failure::fault);
        self.spoiled |= match &self.trust {
            Some(trust) => trust.heard(fault),
            None => fault == Some(Fault::Connection),
        };
    }
}

impl Drop for DbConn {
    fn drop(&mut self) {
        if !self.running && !self.spoiled {
            return;
        }
        match self.held.take() {
            Some(Held::Pg(conn)) => drop(Object::take(*conn)),
            Some(Held::Sqlite(conn)) => drop(Object::take(conn)),
            None => {}
        }
    }
}

impl PgPool {
    /// A pool whose connections are made when they are needed.
    pub(crate) fn new(config: &Database, connector: Connector, size: usize) -> Result<Self, BuildError> {
        let trust = Arc::new(Trust::new());
        let longest = connector.longest();
        let mut setup = ManagerConfig::default();
        setup.recycling_method = RecyclingMethod::Fast;
        setup.custom_setup = Box::new(move |_| {
            let connector = connector.clone();
            async move { connector.connect().await }.boxed()
        });
        let known = Arc::clone(&trust);
        let (check_after, patience) = (config.check_after, config.connect_timeout);
        let check = Hook::async_fn(move |conn: &mut pg::Conn, used| {
            let known = Arc::clone(&known);
            Box::pin(async move {
                if !known.covers(used.created) {
                    return Err(HookError::message("not trusted any more"));
                }
                if used.last_used() < check_after && !known.doubts(used.recycled.unwrap_or(used.created)) {
                    return Ok(());
                }
                if let Ok(Ok(())) = tokio::time::timeout(patience, conn.batch_execute("SELECT 1")).await {
                    return Ok(());
                }
                known.heard(Some(Fault::Connection));
                Err(HookError::message("does not answer"))
            })
        });
        let builder = builder(AsyncDieselConnectionManager::new_with_config("", setup), size);
        let pool = builder.create_timeout(Some(longest)).pre_recycle(check).build();
        let (acquire, answer) = (config.acquire_timeout, config.answer_timeout);
        Ok(Self { pool: pool?, trust, acquire, answer })
    }

    pub(crate) async fn get(&self) -> Result<DbConn, DbError> {
        match tokio::time::timeout(self.acquire, self.pool.get()).await {
            Ok(Ok(conn)) => Ok(DbConn::new(Held::Pg(Box::new(conn)), Some(self.answer), Some(Arc::clone(&self.trust)))),
            Ok(Err(error)) => Err(DbError::Unavailable(error.to_string())),
            Err(_) => Err(DbError::Unavailable(format!("none free or made within {:?}", self.acquire))),
        }
    }

    /// Whether the server's disk took no more when it was last asked for room.
    pub(crate) fn is_full(&self) -> bool {
        self.trust.full.load(Ordering::Relaxed)
    }

    /// The server has room again.
    pub(crate) fn has_room(&self) {
        self.trust.full.store(false, Ordering::Relaxed);
    }

    pub(crate) fn usage(&self) -> (usize, usize) {
        usage(&self.pool)
    }
}

impl SqlitePools {
    /// Pools for a file. A request that writes waits at most `database.acquire_timeout`: half of it for its turn, half for
    /// other processes.
    pub(crate) fn new(config: &Database, path: &str) -> Result<Self, BuildError> {
        let turn = config.acquire_timeout / 2;
        let busy = config.busy_timeout.min(turn);
        let pool = |size, more| {
            let mut setup = ManagerConfig::default();
            setup.recycling_method = RecyclingMethod::Fast;
            setup.custom_setup = Box::new(move |path: &str| lite_connect(path.to_owned(), busy, more).boxed());
            builder(AsyncDieselConnectionManager::new_with_config(path, setup), size)
                .wait_timeout(Some(turn))
                .create_timeout(Some(config.acquire_timeout))
                .build()
        };
        Ok(Self { write: pool(1, "")?, read: pool(config.sqlite_readers, "PRAGMA query_only = ON;")? })
    }

    pub(crate) async fn write(&self) -> Result<DbConn, DbError> {
        get(&self.write).await
    }

    pub(crate) async fn read(&self) -> Result<DbConn, DbError> {
        get(&self.read).await
    }

    pub(crate) fn usage(&self) -> (usize, usize) {
        let ((writing, writers), (reading, readers)) = (usage(&self.write), usage(&self.read));
        (writing + reading, writers + readers)
    }
}

async fn get(pool: &Pool<sqlite::Conn>) -> Result<DbConn, DbError> {
    let conn = pool.get().await.map_err(|error| DbError::Unavailable(error.to_string()))?;
    Ok(DbConn::new(Held::Sqlite(conn), None, None))
}

fn builder<C>(manager: AsyncDieselConnectionManager<C>, size: usize) -> PoolBuilder<C>
where
    C: PoolableConnection + Send + 'static,
    AsyncDieselConnectionManager<C>: Manager<Type = C>,
{
    Pool::builder(manager).max_size(size).runtime(deadpool::Runtime::Tokio1)
}

fn usage<C>(pool: &Pool<C>) -> (usize, usize)
where
    C: PoolableConnection + Send + 'static,
    AsyncDieselConnectionManager<C>: Manager<Type = C>,
{
    let status = pool.status();
    (status.size.saturating_sub(status.available), status.max_size)
}

async fn lite_connect(path: String, busy: Duration, more: &str) -> diesel::ConnectionResult<sqlite::Conn> {
    let mut conn = sqlite::Conn::establish(&path).await?;
    let setup = format!(
        "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; {more}",
        busy.as_millis()
    );
    conn.batch_execute(&setup).await.map_err(diesel::ConnectionError::CouldntSetupConfiguration)?;
    Ok(conn)
}
