use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, admission};
use crate::control::db::schema::{gateway_exit_regions, gateway_nodes, node_health, outline_nodes, regions};
use crate::control::db::types::{Id, Time};
use crate::control::models::{Gateway, NodeView, OutlineNode};

/// Notes that a gateway is alive; gives the nodes it may use with their regions' codes.
pub(crate) async fn gateway_alive(
    conn: &mut Conn,
    gateway: &Gateway,
    now: Time,
) -> QueryResult<Vec<(OutlineNode, String)>> {
    diesel::update(gateway_nodes::table.find(gateway.id))
        .set((
            gateway_nodes::status.eq("online"),
            gateway_nodes::last_heartbeat_at.eq(now),
            gateway_nodes::version.eq(&gateway.version),
            gateway_nodes::sessions.eq(gateway.sessions),
            gateway_nodes::streams.eq(gateway.streams),
        ))
        .execute(conn)
        .await?;
    let exits: Vec<Id> = admission::exit_regions(conn, gateway).await?.into_iter().map(|region| region.id).collect();
    outline_nodes::table
        .inner_join(regions::table.on(regions::id.eq(outline_nodes::region_id)))
        .filter(outline_nodes::region_id.eq_any(exits))
        .filter(outline_nodes::state.ne("maintenance"))
        .select((OutlineNode::as_select(), regions::code))
        .order(outline_nodes::id)
        .load(conn)
        .await
}

/// Takes a gateway's view of a node and forms the pool's opinion: unhealthy needs half of the region's live gateways.
/// `None` if the gateway has no business with the node; else the node's health.
pub(crate) async fn node_seen(
    conn: &mut Conn,
    gateway: &Gateway,
    view: NodeView,
    since: Time,
) -> QueryResult<Option<String>> {
    let exits = admission::exit_regions(conn, gateway).await?;
    transaction!(conn, async |conn: &mut Conn| {
        let node: Option<Id> = outline_nodes::table
            .find(view.outline_node_id)
            .select(outline_nodes::region_id)
            .first(conn)
            .await
            .optional()?;
        let Some(region) = node.filter(|region| exits.iter().any(|exit| exit.id == *region)) else {
            return Ok(None);
        };
        diesel::insert_into(node_health::table)
            .values(view)
            .on_conflict((node_health::outline_node_id, node_health::gateway_node_id))
            .do_update()
            .set(view)
            .execute(conn)
            .await?;
        let against: i64 = node_health::table
            .inner_join(gateway_nodes::table.on(gateway_nodes::id.eq(node_health::gateway_node_id)))
            .filter(node_health::outline_node_id.eq(view.outline_node_id))
            .filter(node_health::healthy.eq(false).and(node_health::checked_at.ge(since)))
            .filter(gateway_nodes::status.eq("online"))
            .count()
            .get_result(conn)
            .await?;
        let listed = gateway_exit_regions::table.select(gateway_exit_regions::gateway_node_id);
        let by_list = listed.filter(gateway_exit_regions::region_id.eq(region));
        let at_home = gateway_nodes::region_id.eq(region).and(gateway_nodes::id.ne_all(listed));
        let live: i64 = gateway_nodes::table
            .filter(gateway_nodes::status.eq("online"))
            .filter(at_home.or(gateway_nodes::id.eq_any(by_list)))
            .count()
            .get_result(conn)
            .await?;
        let health = if against > 0 && against * 2 >= live { "unhealthy" } else { "healthy" };
        diesel::update(outline_nodes::table.find(view.outline_node_id))
            .set((outline_nodes::health_status.eq(health), outline_nodes::last_heartbeat_at.eq(view.checked_at)))
            .execute(conn)
            .await?;
        Ok(Some(health.to_owned()))
    })
    .await
}
