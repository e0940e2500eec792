use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Conn;
use crate::control::model::schema::idempotent_requests;
use crate::control::model::types::Time;
use crate::control::model::{IdempotentRequest, StoredAnswer};

/// Whether a request is the first of its key; it is then under way.
pub(crate) async fn claim(conn: &mut Conn, request: &IdempotentRequest) -> QueryResult<bool> {
    let inserted =
        diesel::insert_into(idempotent_requests::table).values(request).on_conflict_do_nothing().execute(conn).await?;
    Ok(inserted == 1)
}

/// The first request of a key.
pub(crate) async fn find(conn: &mut Conn, key_hash: &str) -> QueryResult<Option<IdempotentRequest>> {
    idempotent_requests::table.find(key_hash).select(IdempotentRequest::as_select()).first(conn).await.optional()
}

/// Keeps the answer of a request that was under way.
pub(crate) async fn finish(conn: &mut Conn, key_hash: &str, answer: &StoredAnswer) -> QueryResult<usize> {
    diesel::update(idempotent_requests::table.find(key_hash)).set(answer).execute(conn).await
}

/// Forgets a request that did nothing.
pub(crate) async fn release(conn: &mut Conn, key_hash: &str) -> QueryResult<usize> {
    diesel::delete(idempotent_requests::table.find(key_hash)).execute(conn).await
}

/// Forgets requests from before a moment.
pub(super) async fn forget(conn: &mut Conn, since: Time) -> QueryResult<usize> {
    diesel::delete(idempotent_requests::table.filter(idempotent_requests::created_at.lt(since))).execute(conn).await
}
