use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Conn;
use crate::control::db::schema::activation_codes;
use crate::control::db::types::Id;
use crate::control::models::ActivationCode;

/// Keeps an activation code.
pub(crate) async fn create(conn: &mut Conn, row: &ActivationCode) -> QueryResult<()> {
    diesel::insert_into(activation_codes::table).values(row).execute(conn).await.map(|_| ())
}

/// One activation code.
pub(crate) async fn get(conn: &mut Conn, id: Id) -> QueryResult<ActivationCode> {
    activation_codes::table.find(id).select(ActivationCode::as_select()).first(conn).await
}

/// A page of activation codes, of one user if one is given.
pub(crate) async fn list(
    conn: &mut Conn,
    after: Option<Id>,
    user: Option<Id>,
    limit: i64,
) -> QueryResult<Vec<ActivationCode>> {
    let mut query = activation_codes::table
        .select(ActivationCode::as_select())
        .order(activation_codes::id)
        .limit(limit)
        .into_boxed();
    if let Some(after) = after {
        query = query.filter(activation_codes::id.gt(after));
    }
    if let Some(user) = user {
        query = query.filter(activation_codes::user_id.eq(user));
    }
    query.load(conn).await
}

/// Deletes an activation code; the device that it made stays.
pub(crate) async fn delete(conn: &mut Conn, id: Id) -> QueryResult<usize> {
    diesel::delete(activation_codes::table.find(id)).execute(conn).await
}
