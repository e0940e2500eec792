use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, identity, instances, notify};
use crate::control::model::id::{EpochId, GatewayId, InstanceId, SessionId};
use crate::control::model::schema::{devices, events, gateway_nodes, installation, sessions, users};
use crate::control::model::state::{DeviceStatus, SessionState, UserStatus};
use crate::control::model::types::Time;
use crate::control::model::{EventRow, NewEvent};

/// Writes an event, last in its transaction: its number is drawn under a lock that is held to the end, so that no number
/// becomes visible after a higher one.
pub(crate) async fn emit(conn: &mut Conn, event: NewEvent, now: Time) -> QueryResult<i64> {
    let seq = diesel::update(installation::table.find(1))
        .set(installation::last_seq.eq(installation::last_seq + 1))
        .returning(installation::last_seq)
        .get_result(conn)
        .await?;
    let row = EventRow {
        seq,
        kind: event.kind().as_str().into(),
        subject: event.subject(),
        code: event.code().map(|code| code.as_str().into()),
        created_at: now,
    };
    diesel::insert_into(events::table).values(row).execute(conn).await?;
    notify(conn).await?;
    Ok(seq)
}

/// The epoch and the newest number.
pub(crate) async fn head(conn: &mut Conn) -> QueryResult<(String, i64)> {
    let (epoch, seq): (EpochId, i64) =
        installation::table.find(1).select((installation::epoch, installation::last_seq)).first(conn).await?;
    Ok((format!("{epoch}{}", identity(conn).await?), seq))
}

/// Events behind a number, in order.
pub(crate) async fn after(conn: &mut Conn, seq: i64, limit: i64) -> QueryResult<Vec<EventRow>> {
    events::table
        .filter(events::seq.gt(seq))
        .order(events::seq)
        .limit(limit)
        .select(EventRow::as_select())
        .load(conn)
        .await
}

/// The newest number, then the sessions of a gateway that may go on.
pub(crate) async fn snapshot(conn: &mut Conn, gateway: GatewayId) -> QueryResult<(i64, Vec<SessionId>)> {
    let seq = installation::table.find(1).select(installation::last_seq).first(conn).await?;
    let listed = sessions::table
        .inner_join(users::table.on(users::id.eq(sessions::user_id)))
        .inner_join(devices::table.on(devices::id.eq(sessions::device_id)))
        .filter(sessions::gateway_node_id.eq(gateway))
        .filter(sessions::state.ne_all(SessionState::OVER))
        .filter(users::status.eq(UserStatus::Active).and(devices::status.eq(DeviceStatus::Active)))
        .select(sessions::id)
        .load(conn)
        .await?;
    Ok((seq, listed))
}

/// A gateway, or one of its processes, has acted on everything up to a number.
pub(crate) async fn ack(
    conn: &mut Conn,
    gateway: GatewayId,
    instance: Option<InstanceId>,
    seq: i64,
    now: Time,
) -> QueryResult<()> {
    if let Some(instance) = instance {
        return instances::ack(conn, gateway, instance, seq, now).await;
    }
    diesel::update(gateway_nodes::table.find(gateway))
        .set(gateway_nodes::acked_seq.eq(seq))
        .execute(conn)
        .await
        .map(|_| ())
}

/// Online gateways that have acted on a number, and all that are online.
pub(crate) async fn acks(conn: &mut Conn, seq: i64) -> QueryResult<(i64, i64)> {
    let seen = instances::acked(conn).await?;
    let acked = seen.iter().filter(|acked| **acked >= seq).count();
    Ok((i64::try_from(acked).unwrap_or(i64::MAX), i64::try_from(seen.len()).unwrap_or(i64::MAX)))
}

/// Forgets events from before a moment.
pub(crate) async fn forget(conn: &mut Conn, before: Time) -> QueryResult<usize> {
    diesel::delete(events::table.filter(events::created_at.lt(before))).execute(conn).await
}
