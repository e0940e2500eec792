use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::types::{Id, SqlUuid};

pub(crate) type Conn = AsyncPgConnection;

/// The channel that announces events.
pub(super) const EVENTS: &str = "httvps_events";

macro_rules! transaction {
    ($conn:expr, $body:expr) => {
        diesel_async::AsyncConnection::transaction($conn, $body)
    };
}

/// Serialises what concerns one user until the transaction ends.
pub(super) async fn lock_user(conn: &mut Conn, user: Id) -> QueryResult<()> {
    diesel::sql_query("SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE")
        .bind::<SqlUuid, _>(user)
        .execute(conn)
        .await?;
    Ok(())
}

/// Serialises reports of the same sessions until the transaction ends; `ids` are sorted.
pub(super) async fn lock_sessions(conn: &mut Conn, ids: &[Id]) -> QueryResult<()> {
    diesel::sql_query("SELECT id FROM sessions WHERE id = ANY($1) ORDER BY id FOR UPDATE")
        .bind::<diesel::sql_types::Array<SqlUuid>, _>(ids)
        .execute(conn)
        .await?;
    Ok(())
}

/// Waits for reservations under way and keeps new ones out until the transaction ends.
pub(super) async fn lock_nodes(conn: &mut Conn) -> QueryResult<()> {
    diesel::sql_query("SELECT id FROM outline_nodes ORDER BY id FOR UPDATE").execute(conn).await?;
    Ok(())
}

/// A reservation is recounted by the sweep, so it need not wait for the disk.
pub(super) async fn relax_durability(conn: &mut Conn) -> QueryResult<()> {
    diesel::sql_query("SET LOCAL synchronous_commit = off").execute(conn).await?;
    Ok(())
}

/// Tells every replica that there are events, once the transaction is committed.
pub(super) async fn notify(conn: &mut Conn) -> QueryResult<()> {
    diesel::sql_query(format!("NOTIFY {EVENTS}")).execute(conn).await?;
    Ok(())
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
        Err(diesel::result::Error::DatabaseError(_, refused)) => {
            tracing::debug!(reason = refused.message(), "the server does not tell its identity");
            Ok(String::new())
        }
        Err(error) => Err(error),
    }
}

#[path = "queries/admin.rs"]
pub(crate) mod admin;
#[path = "queries/admission.rs"]
pub(crate) mod admission;
#[path = "queries/billing.rs"]
pub(crate) mod billing;
#[path = "queries/client.rs"]
pub(crate) mod client;
#[path = "queries/codes.rs"]
pub(crate) mod codes;
#[path = "queries/enrolment.rs"]
pub(crate) mod enrolment;
#[path = "queries/events.rs"]
pub(crate) mod events;
#[path = "queries/health.rs"]
pub(crate) mod health;
#[path = "queries/nodes.rs"]
pub(crate) mod nodes;
#[path = "queries/refusals.rs"]
pub(crate) mod refusals;
#[path = "queries/sweep.rs"]
pub(crate) mod sweep;
#[path = "queries/usage.rs"]
pub(crate) mod usage;
