use diesel::{QueryResult, SqliteConnection};
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;

use super::types::Id;

pub(super) type Conn = SyncConnectionWrapper<SqliteConnection>;

macro_rules! transaction {
    ($conn:expr, $body:expr) => {
        $conn.immediate_transaction($body)
    };
}

#[expect(clippy::unused_async, reason = "an immediate transaction locks the whole database already")]
pub(super) async fn lock_user(_: &mut Conn, _: Id) -> QueryResult<()> {
    Ok(())
}

#[expect(clippy::unused_async, reason = "an immediate transaction locks the whole database already")]
pub(super) async fn lock_sessions(_: &mut Conn, _: &[Id]) -> QueryResult<()> {
    Ok(())
}

#[expect(clippy::unused_async, reason = "SQLite runs with synchronous=NORMAL")]
pub(super) async fn relax_durability(_: &mut Conn) -> QueryResult<()> {
    Ok(())
}

#[path = "queries/admin.rs"]
pub(super) mod admin;
#[path = "queries/admission.rs"]
pub(super) mod admission;
#[path = "queries/health.rs"]
pub(super) mod health;
#[path = "queries/sweep.rs"]
pub(super) mod sweep;
#[path = "queries/usage.rs"]
pub(super) mod usage;
