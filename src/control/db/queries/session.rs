use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, events, lock_nodes};
use crate::control::model::id::SessionId;
use crate::control::model::schema::{outline_nodes, session_tombstones, sessions};
use crate::control::model::state::SessionState;
use crate::control::model::types::{SqlTime, Time};
use crate::control::model::{NewEvent, Session, Written};
use crate::frame::SessionCode;

/// One session.
pub(crate) async fn get(conn: &mut Conn, id: SessionId) -> QueryResult<Session> {
    sessions::table.find(id).select(Session::as_select()).first(conn).await
}

/// Ends a session for good and frees its place; gives the event.
pub(crate) async fn kill(conn: &mut Conn, id: SessionId, now: Time) -> QueryResult<Written<Session>> {
    transaction!(conn, async |conn: &mut Conn| {
        super::lock_sessions(conn, &[id]).await?;
        let event_seq = if end(conn, id, now).await? {
            let stop = NewEvent::SessionStopped(id, SessionCode::SessionKilled);
            Some(events::emit(conn, stop, now).await?)
        } else {
            None
        };
        Ok(Written { row: get(conn, id).await?, event_seq })
    })
    .await
}

/// Marks a locked session as killed and frees its place, unless it is over.
pub(crate) async fn end(conn: &mut Conn, id: SessionId, now: Time) -> QueryResult<bool> {
    let session = get(conn, id).await?;
    if session.state.is_over() {
        return Ok(false);
    }
    if let Some(node) = session.outline_node_id
        && session.state.is_live()
    {
        diesel::update(outline_nodes::table.find(node))
            .set(outline_nodes::active_sessions.eq(outline_nodes::active_sessions - 1))
            .execute(conn)
            .await?;
    }
    let change = (sessions::state.eq(SessionState::Killed), sessions::ended_at.eq(now));
    diesel::update(sessions::table.find(id)).set(change).execute(conn).await?;
    Ok(true)
}

/// Sets every node's count of sessions to what the sessions say.
pub(crate) async fn recount(conn: &mut Conn) -> QueryResult<usize> {
    lock_nodes(conn).await?;
    let live = SessionState::one_of("s.state", &SessionState::LIVE);
    diesel::sql_query(format!(
        "UPDATE outline_nodes SET active_sessions = live.count FROM (\
         SELECT n.id, COUNT(s.id) AS count FROM outline_nodes n LEFT JOIN sessions s \
         ON s.outline_node_id = n.id AND {live} GROUP BY n.id) AS live \
         WHERE live.id = outline_nodes.id AND live.count <> outline_nodes.active_sessions",
    ))
    .execute(conn)
    .await
}

/// Deletes sessions and leaves tombstones, so that a late report charges nothing.
pub(crate) async fn delete(conn: &mut Conn, ids: &[SessionId], now: Time) -> QueryResult<usize> {
    let columns = (
        session_tombstones::id,
        session_tombstones::bytes_up,
        session_tombstones::bytes_down,
        session_tombstones::deleted_at,
    );
    sessions::table
        .filter(sessions::id.eq_any(ids))
        .select((sessions::id, sessions::bytes_up, sessions::bytes_down, now.into_sql::<SqlTime>()))
        .insert_into(session_tombstones::table)
        .into_columns(columns)
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    diesel::delete(sessions::table.filter(sessions::id.eq_any(ids))).execute(conn).await
}
