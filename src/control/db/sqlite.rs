#![expect(clippy::duplicate_mod, reason = "the same queries, compiled for each database")]

use crate::control::model::id::{SessionId, UserId};
use diesel::{QueryResult, SqliteConnection};
use diesel_async::RunQueryDsl;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;

pub(crate) type Conn = SyncConnectionWrapper<SqliteConnection>;
pub(super) type Backend = diesel::sqlite::Sqlite;

pub(super) const BYTEWISE: [&str; 2] = ["users.identifier >= ", " AND users.identifier < "];

macro_rules! transaction {
    ($conn:expr, $body:expr) => {
        $conn.immediate_transaction($body)
    };
}

pub(super) async fn lock_user(_: &mut Conn, _: UserId) -> QueryResult<()> {
    Ok(())
}

pub(super) async fn lock_sessions(_: &mut Conn, _: &[SessionId]) -> QueryResult<()> {
    Ok(())
}

pub(super) async fn lock_nodes(_: &mut Conn) -> QueryResult<()> {
    Ok(())
}

macro_rules! locked_user_lightly {
    ($id:expr) => {
        users::table.find($id).select((User::as_select(), "".into_sql::<diesel::sql_types::Text>()))
    };
}

macro_rules! locked_session {
    ($id:expr) => {
        sessions::table.find($id).select(Session::as_select())
    };
}

macro_rules! locked_devices {
    ($user:expr) => {
        devices::table.filter(devices::user_id.eq($user)).order(devices::id).select(devices::id)
    };
}

macro_rules! locked_period {
    ($subscription:expr, $start:expr) => {
        usage_periods::table.find(($subscription, $start)).select(Counters::as_select())
    };
}

macro_rules! pipelined {
    ($conn:ident => $($query:expr),+ $(,)?) => {
        async { Ok::<_, diesel::result::Error>(($($query.await?),+)) }.await
    };
}

pub(super) async fn notify(_: &mut Conn) -> QueryResult<()> {
    Ok(())
}

pub(super) async fn identity(_: &mut Conn) -> QueryResult<String> {
    Ok(String::new())
}

/// Whether the file takes writes: a small one is made.
pub(crate) async fn writable(conn: &mut Conn, _: bool) -> QueryResult<bool> {
    let sql = "INSERT OR REPLACE INTO write_probe (id, filler) VALUES (1, randomblob(16))";
    diesel::sql_query(sql).execute(conn).await.map(|rows| rows == 1)
}

#[path = "queries/admin.rs"]
pub(crate) mod admin;
#[path = "queries/admission.rs"]
pub(crate) mod admission;
#[path = "queries/billing.rs"]
pub(crate) mod billing;
#[path = "queries/client.rs"]
pub(crate) mod client;
#[path = "queries/deletion.rs"]
pub(crate) mod deletion;
#[path = "queries/enrollment.rs"]
pub(crate) mod enrollment;
#[path = "queries/events.rs"]
pub(crate) mod events;
#[path = "queries/health.rs"]
pub(crate) mod health;
#[path = "queries/idempotency.rs"]
pub(crate) mod idempotency;
#[path = "queries/instances.rs"]
pub(crate) mod instances;
#[path = "queries/lists.rs"]
pub(crate) mod lists;
#[path = "queries/names.rs"]
pub(crate) mod names;
#[path = "queries/nodes.rs"]
pub(crate) mod nodes;
#[path = "queries/period.rs"]
pub(crate) mod period;
#[path = "queries/refusals.rs"]
pub(crate) mod refusals;
#[path = "queries/session.rs"]
pub(crate) mod session;
#[path = "queries/sweep.rs"]
pub(crate) mod sweep;
#[path = "queries/usage.rs"]
pub(crate) mod usage;
