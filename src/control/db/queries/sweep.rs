use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, enrollment, events, idempotency, instances, lock_sessions, session};
use crate::control::model::id::SessionId;
use crate::control::model::schema::{gateway_nodes, outline_nodes, refusals, session_tombstones, sessions};
use crate::control::model::state::{GatewayStatus, NodeHealth, SessionState};
use crate::control::model::types::Time;
use crate::control::model::{Cutoffs, Swept, empty, live};

/// Most batches of old sessions that a sweep deletes.
const TOMBSTONE_BATCHES: usize = 10;

/// Ends what is stale and recounts the nodes' sessions.
pub(crate) async fn sweep(conn: &mut Conn, cutoffs: Cutoffs) -> QueryResult<Swept> {
    let mut swept = transaction!(conn, async |conn: &mut Conn| {
        let (expired, reaped) = end(conn, cutoffs.now).await?;
        let gateways = diesel::update(gateway_nodes::table.filter(
            gateway_nodes::status.eq(GatewayStatus::Online).and(gateway_nodes::last_heartbeat_at.lt(cutoffs.gateways)),
        ))
        .set(gateway_nodes::status.eq(GatewayStatus::Offline))
        .execute(conn)
        .await?;
        session::recount(conn).await?;
        let nodes = diesel::update(
            outline_nodes::table
                .filter(outline_nodes::health_status.eq_any([NodeHealth::Healthy, NodeHealth::Unhealthy]))
                .filter(outline_nodes::last_heartbeat_at.lt(cutoffs.nodes)),
        )
        .set(outline_nodes::health_status.eq(NodeHealth::Offline))
        .execute(conn)
        .await?;
        QueryResult::Ok(Swept { expired, reaped, gateways, nodes, deleted: 0 })
    })
    .await?;
    instances::forget(conn, cutoffs.gateways).await?;
    enrollment::forget(conn, cutoffs.now, cutoffs.tombstones).await?;
    events::forget(conn, cutoffs.events).await?;
    idempotency::forget(conn, cutoffs.idempotency).await?;
    diesel::delete(session_tombstones::table.filter(session_tombstones::deleted_at.lt(cutoffs.tombstones)))
        .execute(conn)
        .await?;
    swept.deleted += drop_empty(conn, cutoffs).await?;
    diesel::delete(refusals::table.filter(refusals::created_at.lt(cutoffs.refusals))).execute(conn).await?;
    for _ in 0..TOMBSTONE_BATCHES {
        let tombstoned = bury(conn, cutoffs).await?;
        swept.deleted += tombstoned;
        if i64::try_from(tombstoned).unwrap_or(i64::MAX) < cutoffs.batch {
            break;
        }
    }
    Ok(swept)
}

/// Ends reservations that were not used and sessions whose gateways are silent.
async fn end(conn: &mut Conn, now: Time) -> QueryResult<(usize, usize)> {
    let stale: Vec<SessionId> = sessions::table
        .filter(live().and(sessions::expires_at.lt(now)))
        .order(sessions::id)
        .select(sessions::id)
        .load(conn)
        .await?;
    if stale.is_empty() {
        return Ok((0, 0));
    }
    lock_sessions(conn, &stale).await?;
    let expired = end_those(conn, &stale, SessionState::Reserved, SessionState::Expired, now).await?;
    let reaped = end_those(conn, &stale, SessionState::Active, SessionState::Reaped, now).await?;
    Ok((expired, reaped))
}

async fn end_those(
    conn: &mut Conn,
    stale: &[SessionId],
    from: SessionState,
    to: SessionState,
    now: Time,
) -> QueryResult<usize> {
    let still = sessions::id.eq_any(stale).and(sessions::state.eq(from)).and(sessions::expires_at.lt(now));
    diesel::update(sessions::table.filter(still))
        .set((sessions::state.eq(to), sessions::ended_at.eq(now)))
        .execute(conn)
        .await
}

/// Deletes sessions that never moved a byte. They leave no tombstones: nothing was charged that could be charged twice.
async fn drop_empty(conn: &mut Conn, cutoffs: Cutoffs) -> QueryResult<usize> {
    transaction!(conn, async |conn: &mut Conn| {
        let old: Vec<SessionId> = sessions::table
            .filter(empty().and(sessions::ended_at.lt(cutoffs.empty)))
            .select(sessions::id)
            .limit(cutoffs.batch)
            .load(conn)
            .await?;
        lock_sessions(conn, &old).await?;
        diesel::delete(sessions::table.filter(sessions::id.eq_any(&old).and(empty()))).execute(conn).await
    })
    .await
}

async fn bury(conn: &mut Conn, cutoffs: Cutoffs) -> QueryResult<usize> {
    transaction!(conn, async |conn: &mut Conn| {
        let old: Vec<SessionId> = sessions::table
            .filter(sessions::ended_at.lt(cutoffs.sessions).and(sessions::state.ne_all(SessionState::LIVE)))
            .order(sessions::id)
            .select(sessions::id)
            .limit(cutoffs.batch)
            .load(conn)
            .await?;
        lock_sessions(conn, &old).await?;
        session::delete(conn, &old, cutoffs.now).await
    })
    .await
}
