use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Conn;
use crate::control::model::id::{GatewayId, InstanceId};
use crate::control::model::schema::{gateway_instances, gateway_nodes};
use crate::control::model::state::GatewayStatus;
use crate::control::model::types::Time;
use crate::control::model::{GatewayInstance, InstanceBeat};

/// Most processes that are remembered of a gateway.
const MOST: i64 = 16;

/// Takes a process's heartbeat, in the transaction that holds its gateway's row. When the last one has left, the gateway
/// is offline.
pub(super) async fn beat(conn: &mut Conn, beat: &InstanceBeat) -> QueryResult<()> {
    let row = &beat.instance;
    let of_gateway = gateway_instances::gateway_node_id.eq(row.gateway_node_id);
    if beat.leaving {
        diesel::delete(gateway_instances::table.find((row.gateway_node_id, row.id))).execute(conn).await?;
        let left: i64 = gateway_instances::table.filter(of_gateway).count().get_result(conn).await?;
        if left == 0 {
            diesel::update(gateway_nodes::table.find(row.gateway_node_id))
                .set(gateway_nodes::status.eq(GatewayStatus::Offline))
                .execute(conn)
                .await?;
        }
        return Ok(());
    }
    if beat.alone {
        let others = gateway_instances::table.filter(of_gateway.and(gateway_instances::id.ne(row.id)));
        diesel::delete(others).execute(conn).await?;
    }
    diesel::insert_into(gateway_instances::table)
        .values(row)
        .on_conflict((gateway_instances::gateway_node_id, gateway_instances::id))
        .do_update()
        .set((
            gateway_instances::version.eq(&row.version),
            gateway_instances::sessions.eq(row.sessions),
            gateway_instances::streams.eq(row.streams),
            gateway_instances::last_heartbeat_at.eq(row.last_heartbeat_at),
        ))
        .execute(conn)
        .await?;
    let newest: Vec<InstanceId> = gateway_instances::table
        .filter(of_gateway)
        .order(gateway_instances::last_heartbeat_at.desc())
        .select(gateway_instances::id)
        .limit(MOST)
        .load(conn)
        .await?;
    if i64::try_from(newest.len()) == Ok(MOST) {
        let older = gateway_instances::table.filter(of_gateway.and(gateway_instances::id.ne_all(newest)));
        diesel::delete(older).execute(conn).await?;
    }
    Ok(())
}

/// A process has acted on everything up to a number.
pub(super) async fn ack(
    conn: &mut Conn,
    gateway: GatewayId,
    instance: InstanceId,
    seq: i64,
    now: Time,
) -> QueryResult<()> {
    let row = GatewayInstance {
        gateway_node_id: gateway,
        id: instance,
        version: String::new(),
        sessions: 0,
        streams: 0,
        acked_seq: seq,
        started_at: now,
        last_heartbeat_at: now,
    };
    diesel::insert_into(gateway_instances::table)
        .values(row)
        .on_conflict((gateway_instances::gateway_node_id, gateway_instances::id))
        .do_update()
        .set(gateway_instances::acked_seq.eq(seq))
        .execute(conn)
        .await
        .map(|_| ())
}

/// What the online gateways have acted on: of several processes what all of them have.
pub(super) async fn acked(conn: &mut Conn) -> QueryResult<Vec<i64>> {
    let rows: Vec<(GatewayId, i64, Option<i64>)> = gateway_nodes::table
        .left_join(gateway_instances::table.on(gateway_instances::gateway_node_id.eq(gateway_nodes::id)))
        .filter(gateway_nodes::status.eq(GatewayStatus::Online).and(gateway_nodes::revoked.eq(false)))
        .select((gateway_nodes::id, gateway_nodes::acked_seq, gateway_instances::acked_seq.nullable()))
        .load(conn)
        .await?;
    let mut acked: BTreeMap<GatewayId, i64> = BTreeMap::new();
    for (gateway, own, of_instance) in rows {
        let seq = of_instance.unwrap_or(own);
        acked.entry(gateway).and_modify(|least| *least = (*least).min(seq)).or_insert(seq);
    }
    Ok(acked.into_values().collect())
}

/// The processes of some gateways, the oldest first.
pub(crate) async fn of(conn: &mut Conn, gateways: &[GatewayId]) -> QueryResult<Vec<GatewayInstance>> {
    gateway_instances::table
        .filter(gateway_instances::gateway_node_id.eq_any(gateways))
        .order(gateway_instances::started_at)
        .select(GatewayInstance::as_select())
        .load(conn)
        .await
}

/// Forgets processes that are silent since a moment.
pub(super) async fn forget(conn: &mut Conn, since: Time) -> QueryResult<usize> {
    diesel::delete(gateway_instances::table.filter(gateway_instances::last_heartbeat_at.lt(since))).execute(conn).await
}
