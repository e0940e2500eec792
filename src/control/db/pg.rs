use diesel::QueryResult;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::types::{Id, SqlUuid};

pub(crate) type Conn = AsyncPgConnection;

macro_rules! transaction {
    ($conn:expr, $body:expr) => {
        diesel_async::AsyncConnection::transaction($conn, $body)
    };
}

/// Serialises what concerns one user until the transaction ends.
pub(super) async fn lock_user(conn: &mut Conn, user: Id) -> QueryResult<()> {
    diesel::sql_query("SELECT id FROM users WHERE id = $1 FOR UPDATE").bind::<SqlUuid, _>(user).execute(conn).await?;
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

#[path = "queries/admin.rs"]
pub(crate) mod admin;
#[path = "queries/admission.rs"]
pub(crate) mod admission;
#[path = "queries/health.rs"]
pub(crate) mod health;
#[path = "queries/sweep.rs"]
pub(crate) mod sweep;
#[path = "queries/usage.rs"]
pub(crate) mod usage;
