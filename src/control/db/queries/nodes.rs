use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

use super::{Conn, admin, events, lock_nodes};
use crate::control::model::NewEvent;
use crate::control::model::id::{GatewayId, NodeId, RegionId};
use crate::control::model::revision::Expected;
use crate::control::model::schema::{gateway_nodes, outline_nodes};
use crate::control::model::state::GatewayStatus;
use crate::control::model::types::{SqlUuid, Time};
use crate::control::model::{Gateway, GatewayChange, NodeChange, OutlineNode, Written};

/// Makes a node; gives the event.
pub(crate) async fn create(conn: &mut Conn, row: &OutlineNode, now: Time) -> QueryResult<i64> {
    transaction!(conn, async |conn: &mut Conn| {
        diesel::insert_into(outline_nodes::table).values(row).execute(conn).await?;
        events::emit(conn, NewEvent::NodeChanged(row.id), now).await
    })
    .await
}

/// Makes nodes, except those whose address is taken; gives the ids of what was made, and the event.
pub(crate) async fn import(
    conn: &mut Conn,
    rows: &[OutlineNode],
    now: Time,
) -> QueryResult<(Vec<NodeId>, Option<i64>)> {
    transaction!(conn, async |conn: &mut Conn| {
        let mut made = Vec::new();
        for row in rows {
            let inserted =
                diesel::insert_into(outline_nodes::table).values(row).on_conflict_do_nothing().execute(conn).await?;
            if inserted == 1 {
                made.push(row.id);
            }
        }
        let event_seq =
            if made.is_empty() { None } else { Some(events::emit(conn, NewEvent::NodesImported, now).await?) };
        Ok((made, event_seq))
    })
    .await
}

/// Changes a node; a password in the change begins a generation, and the one before stays good unless it is to be
/// forgotten. Gives the event, if gateways have to hear of it.
pub(crate) async fn change(
    conn: &mut Conn,
    id: NodeId,
    change: &NodeChange,
    expected: &Expected,
    forget: bool,
    now: Time,
) -> QueryResult<Written<OutlineNode>> {
    transaction!(conn, async |conn: &mut Conn| {
        lock_nodes(conn).await?;
        let before = admin::node::get(conn, id).await?;
        let row = admin::node::update(conn, id, &rotated(change, &before, forget), expected).await?;
        let heard = forget || concerns_gateways(change);
        let event_seq = if heard { Some(events::emit(conn, NewEvent::NodeChanged(id), now).await?) } else { None };
        Ok(Written { row, event_seq })
    })
    .await
}

fn rotated(change: &NodeChange, before: &OutlineNode, forget: bool) -> NodeChange {
    let mut change = change.clone();
    let mut generation = before.generation;
    if change.ss_password.is_some() {
        generation = generation.saturating_add(1);
        change.generation = Some(generation);
        change.ss_password_old = Some(Some(before.ss_password.clone()));
    }
    let other_cipher = change.ss_method.as_ref().is_some_and(|method| *method != before.ss_method);
    if forget || other_cipher {
        change.ss_password_old = Some(None);
    }
    if forget {
        change.oldest_generation = Some(generation);
    }
    change
}

fn concerns_gateways(change: &NodeChange) -> bool {
    change.region_id.is_some()
        || change.internal_ip.is_some()
        || change.ss_port.is_some()
        || change.ss_method.is_some()
        || change.ss_password.is_some()
        || change.state.is_some()
}

/// Changes a gateway and its exit regions; gives the event, if the gateway has to hear of it.
pub(crate) async fn change_gateway(
    conn: &mut Conn,
    id: GatewayId,
    change: &GatewayChange,
    expected: &Expected,
    exits: Option<&[RegionId]>,
    now: Time,
) -> QueryResult<Written<Gateway>> {
    transaction!(conn, async |conn: &mut Conn| {
        let row = admin::gateway::update(conn, id, change, expected).await?;
        if let Some(exits) = exits {
            admin::set_exits(conn, id, exits).await?;
        }
        let heard = exits.is_some() || change.draining.is_some() || change.region_id.is_some();
        let event_seq = if heard { Some(events::emit(conn, NewEvent::GatewayChanged(id), now).await?) } else { None };
        Ok(Written { row, event_seq })
    })
    .await
}

/// Gives a gateway another token, of which the hash is kept; the one that it uses stays good until the new one is used,
/// unless it is to end now. `None` if the gateway is revoked.
pub(crate) async fn renew_token(conn: &mut Conn, id: GatewayId, hash: &str, end: bool) -> QueryResult<Option<Gateway>> {
    let kept = if end { "NULL" } else { "COALESCE(old_token_hash, token_hash)" };
    let sql =
        format!("UPDATE gateway_nodes SET old_token_hash = {kept}, token_hash = $1 WHERE id = $2 AND NOT revoked");
    let renewed = diesel::sql_query(sql).bind::<Text, _>(hash).bind::<SqlUuid, _>(id).execute(conn).await?;
    let row = admin::gateway::get(conn, id).await?;
    Ok((renewed == 1).then_some(row))
}

/// Ends a gateway's tokens and invitations for good; gives the event.
pub(crate) async fn revoke(conn: &mut Conn, id: GatewayId, now: Time) -> QueryResult<(Gateway, i64)> {
    transaction!(conn, async |conn: &mut Conn| {
        diesel::update(gateway_nodes::table.find(id))
            .set((
                gateway_nodes::revoked.eq(true),
                gateway_nodes::status.eq(GatewayStatus::Offline),
                gateway_nodes::old_token_hash.eq(None::<String>),
                gateway_nodes::enrol_hash.eq(None::<String>),
                gateway_nodes::enrol_until.eq(None::<Time>),
            ))
            .execute(conn)
            .await?;
        let row = admin::gateway::get(conn, id).await?;
        Ok((row, events::emit(conn, NewEvent::GatewayChanged(id), now).await?))
    })
    .await
}

/// Trades an invitation, given by its hash, for a token, of which the hash is kept. `None` if there is no such
/// invitation, or its time is over.
pub(crate) async fn enroll(conn: &mut Conn, invitation: &str, hash: &str, now: Time) -> QueryResult<Option<GatewayId>> {
    let invited: Option<GatewayId> = gateway_nodes::table
        .filter(gateway_nodes::enrol_hash.eq(invitation).and(gateway_nodes::enrol_until.gt(now)))
        .select(gateway_nodes::id)
        .first(conn)
        .await
        .optional()?;
    let Some(id) = invited else { return Ok(None) };
    let unspent = gateway_nodes::table.filter(gateway_nodes::id.eq(id).and(gateway_nodes::enrol_hash.eq(invitation)));
    let traded = diesel::update(unspent)
        .set((
            gateway_nodes::token_hash.eq(hash),
            gateway_nodes::old_token_hash.eq(None::<String>),
            gateway_nodes::enrol_hash.eq(None::<String>),
            gateway_nodes::enrol_until.eq(None::<Time>),
            gateway_nodes::revoked.eq(false),
        ))
        .execute(conn)
        .await?;
    Ok((traded == 1).then_some(id))
}
