use diesel::prelude::*;
use diesel::result::Error;
use diesel::sql_types::Binary;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use crate::control::model::id::{NodeId, SessionId, UserId};
use crate::control::model::schema::{outline_nodes, sessions, users, write_probe};
use crate::digest::fresh_bytes;

pub(crate) type Conn = AsyncPgConnection;
pub(super) type Backend = diesel::pg::Pg;

/// That an identifier is not before, and that it is before; byte by byte, as an index has it.
pub(super) const BYTEWISE: [&str; 2] = ["users.identifier COLLATE \"C\" >= ", " AND users.identifier COLLATE \"C\" < "];

/// The channel that announces events.
pub(super) const EVENTS: &str = "httvps_events";

/// Runs a transaction, again if others were in its way.
macro_rules! transaction {
    ($conn:expr, $body:expr) => {
        async {
            let mut attempt = 0;
            loop {
                let outcome = diesel_async::AsyncConnection::transaction(&mut *$conn, $body).await;
                let Some(pause) = crate::control::db::fault::again(&outcome, &mut attempt) else { break outcome };
                tokio::time::sleep(pause).await;
            }
        }
    };
}

/// Sends queries at once, over one connection, which runs them in this order.
macro_rules! pipelined {
    ($conn:ident => $($query:expr),+ $(,)?) => {{
        let shared: &Conn = $conn;
        tokio::try_join!(biased; $(async {
            let mut reference = shared;
            let $conn = &mut reference;
            $query.await
        }),+)
    }};
}

diesel::define_sql_function! {
    fn set_config(name: diesel::sql_types::Text, value: diesel::sql_types::Text, local: diesel::sql_types::Bool)
        -> diesel::sql_types::Text;
}

/// Serialises what concerns one user until the transaction ends.
pub(super) async fn lock_user(conn: &mut Conn, user: UserId) -> QueryResult<()> {
    let locked: Option<UserId> =
        users::table.find(user).select(users::id).for_no_key_update().first(conn).await.optional()?;
    tracing::trace!(?locked, "user");
    Ok(())
}

/// A query for a user's row that serialises what concerns him until the transaction ends. What the transaction writes
/// need not have reached the disk when it is answered.
macro_rules! locked_user_lightly {
    ($id:expr) => {
        users::table
            .find($id)
            .select((User::as_select(), super::set_config("synchronous_commit", "off", true)))
            .for_no_key_update()
    };
}

/// A query for a session's row that locks it until the transaction ends.
macro_rules! locked_session {
    ($id:expr) => {
        sessions::table.find($id).select(Session::as_select()).for_update()
    };
}

/// A query for a user's devices that locks them, by id, against other changes until the transaction ends.
macro_rules! locked_devices {
    ($user:expr) => {
        devices::table.filter(devices::user_id.eq($user)).order(devices::id).select(devices::id).for_no_key_update()
    };
}

/// A query for a period's counters that serialises what is lent of it until the transaction ends.
macro_rules! locked_period {
    ($subscription:expr, $start:expr) => {
        usage_periods::table.find(($subscription, $start)).select(Counters::as_select()).for_no_key_update()
    };
}

/// Serialises reports of the same sessions until the transaction ends; `ids` are sorted.
pub(super) async fn lock_sessions(conn: &mut Conn, ids: &[SessionId]) -> QueryResult<()> {
    let those = sessions::table.filter(sessions::id.eq_any(ids)).order(sessions::id).select(sessions::id);
    let locked: Vec<SessionId> = those.for_update().load(conn).await?;
    tracing::trace!(count = locked.len(), "sessions");
    Ok(())
}

/// Waits for reservations under way and keeps new ones out until the transaction ends.
pub(super) async fn lock_nodes(conn: &mut Conn) -> QueryResult<()> {
    let all = outline_nodes::table.order(outline_nodes::id).select(outline_nodes::id);
    let locked: Vec<NodeId> = all.for_update().load(conn).await?;
    tracing::trace!(count = locked.len(), "nodes");
    Ok(())
}

/// Tells every replica that there are events, once the transaction is committed; that reaches the disk, for a number
/// that was seen must not be given twice.
pub(super) async fn notify(conn: &mut Conn) -> QueryResult<()> {
    conn.batch_execute(&format!("SET LOCAL synchronous_commit TO DEFAULT; NOTIFY {EVENTS}")).await
}

#[derive(diesel::QueryableByName)]
struct Identity {
    #[diesel(sql_type = diesel::sql_types::Text)]
    identity: String,
}

/// What differs once the database was restored or has failed over; empty if the server does not tell.
pub(super) async fn identity(conn: &mut Conn) -> QueryResult<String> {
    let sql = "SELECT '-' || (SELECT system_identifier FROM pg_control_system())::text || '-' || \
        (SELECT timeline_id FROM pg_control_checkpoint())::text AS identity";
    match diesel::sql_query(sql).get_result::<Identity>(conn).await {
        Ok(row) => Ok(row.identity),
        Err(Error::DatabaseError(_, refused)) => {
            tracing::debug!(reason = refused.message(), "the server does not tell its identity");
            Ok(String::new())
        }
        Err(error) => Err(error),
    }
}

/// Whether the server takes writes. One whose disk was full must take something that needs room; it is rolled back.
pub(crate) async fn writable(conn: &mut Conn, was_full: bool) -> QueryResult<bool> {
    let sql = diesel::dsl::sql::<diesel::sql_types::Bool>("NOT current_setting('transaction_read_only')::boolean");
    let writable: bool = diesel::select(sql).get_result(conn).await?;
    if !writable || !was_full {
        return Ok(writable);
    }
    let tried = transaction!(conn, write_and_roll_back).await;
    match tried {
        Ok(()) | Err(Error::RollbackTransaction) => Ok(true),
        Err(error) => Err(error),
    }
}

async fn write_and_roll_back(conn: &mut Conn) -> QueryResult<()> {
    let fresh = i32::from_ne_bytes(fresh_bytes().map_err(|error| Error::SerializationError(error.into()))?);
    let filler = diesel::dsl::sql::<Binary>("convert_to(repeat('x', 1048576), 'UTF8')");
    let row = (write_probe::id.eq(fresh), write_probe::filler.eq(filler));
    diesel::insert_into(write_probe::table).values(row).execute(conn).await?;
    Err(Error::RollbackTransaction)
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
