use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, admission, instances};
use crate::config::Pool;
use crate::control::model::id::{GatewayId, NodeId, RegionId};
use crate::control::model::schema::{gateway_exit_regions, gateway_nodes, node_health, outline_nodes, regions};
use crate::control::model::state::{GatewayStatus, NodeHealth, NodeState};
use crate::control::model::types::Time;
use crate::control::model::{Gateway, InstanceBeat, NodeReport, NodeVerdict, NodeView, OutlineNode};

/// Notes that a gateway is alive, and which of its processes; gives the nodes it may use with their regions' codes.
pub(crate) async fn gateway_alive(
    conn: &mut Conn,
    gateway: &Gateway,
    beat: Option<&InstanceBeat>,
    now: Time,
) -> QueryResult<Vec<(OutlineNode, String)>> {
    transaction!(conn, async |conn: &mut Conn| {
        diesel::update(gateway_nodes::table.find(gateway.id))
            .set((
                gateway_nodes::status.eq(GatewayStatus::Online),
                gateway_nodes::last_heartbeat_at.eq(now),
                gateway_nodes::version.eq(&gateway.version),
                gateway_nodes::sessions.eq(gateway.sessions),
                gateway_nodes::streams.eq(gateway.streams),
                gateway_nodes::clock_offset_ms.eq(gateway.clock_offset_ms),
                gateway_nodes::certificate_begins.eq(gateway.certificate_begins),
                gateway_nodes::certificate_ends.eq(gateway.certificate_ends),
            ))
            .execute(conn)
            .await?;
        if let Some(beat) = beat {
            instances::beat(conn, beat).await?;
        }
        let exits: Vec<RegionId> =
            admission::exit_regions(conn, gateway).await?.into_iter().map(|region| region.id).collect();
        outline_nodes::table
            .inner_join(regions::table.on(regions::id.eq(outline_nodes::region_id)))
            .filter(outline_nodes::region_id.eq_any(exits))
            .filter(outline_nodes::state.ne(NodeState::Maintenance))
            .select((OutlineNode::as_select(), regions::code))
            .order(outline_nodes::id)
            .load(conn)
            .await
    })
    .await
}

/// Notes the version of a gateway that is not served.
pub(crate) async fn gateway_outdated(conn: &mut Conn, gateway: GatewayId, version: &str) -> QueryResult<()> {
    diesel::update(gateway_nodes::table.find(gateway))
        .set(gateway_nodes::version.eq(version))
        .execute(conn)
        .await
        .map(|_| ())
}

/// Takes a gateway's probe of a node and forms the pool's opinion: unhealthy needs the settled views of half of the
/// region's live gateways, healthy needs one good one. `None` if the gateway has no business with the node.
pub(crate) async fn node_seen(
    conn: &mut Conn,
    gateway: &Gateway,
    report: NodeReport,
    pool: &Pool,
    since: Time,
) -> QueryResult<Option<NodeVerdict>> {
    let NodeReport { view, half_close } = report;
    let exits: Vec<RegionId> =
        admission::exit_regions(conn, gateway).await?.into_iter().map(|region| region.id).collect();
    transaction!(conn, async |conn: &mut Conn| {
        let touched = outline_nodes::table
            .filter(outline_nodes::id.eq(view.outline_node_id))
            .filter(outline_nodes::region_id.eq_any(&exits));
        let values = (
            outline_nodes::last_heartbeat_at.eq(view.checked_at),
            half_close.map(|kept| outline_nodes::half_close.eq(kept)),
        );
        let touched = diesel::update(touched).set(values).execute(conn).await?;
        if touched == 0 {
            return Ok(None);
        }
        let settled = settle(conn, &view, pool, since).await?;
        let (region, health): (RegionId, NodeHealth) = outline_nodes::table
            .find(view.outline_node_id)
            .select((outline_nodes::region_id, outline_nodes::health_status))
            .first(conn)
            .await?;
        let opinion = opinion(conn, view.outline_node_id, region, since).await?;
        let Some(opinion) = opinion.filter(|opinion| *opinion != health) else {
            return Ok(Some(NodeVerdict { health_status: health, changed: false, settled }));
        };
        diesel::update(outline_nodes::table.find(view.outline_node_id))
            .set(outline_nodes::health_status.eq(opinion))
            .execute(conn)
            .await?;
        Ok(Some(NodeVerdict { health_status: opinion, changed: true, settled }))
    })
    .await
}

/// Keeps a view; what counts of it turns after some probes in a row, and at once if there was none lately. Gives what
/// counts.
async fn settle(conn: &mut Conn, view: &NodeView, pool: &Pool, since: Time) -> QueryResult<bool> {
    let before: Option<NodeView> = node_health::table
        .find((view.outline_node_id, view.gateway_node_id))
        .select(NodeView::as_select())
        .first(conn)
        .await
        .optional()?;
    let mut view = view.clone();
    (view.settled, view.streak) = match before.filter(|before| before.checked_at >= since) {
        Some(before) => {
            let streak = if before.healthy == view.healthy { before.streak.saturating_add(1) } else { 1 };
            let streak = streak.max(view.streak);
            let enough = if view.healthy { pool.recover_after } else { pool.fail_after };
            (if streak >= enough { view.healthy } else { before.settled }, streak)
        }
        None => (view.healthy, 1),
    };
    diesel::insert_into(node_health::table)
        .values(&view)
        .on_conflict((node_health::outline_node_id, node_health::gateway_node_id))
        .do_update()
        .set(&view)
        .execute(conn)
        .await?;
    Ok(view.settled)
}

/// What the gateways that saw a node lately hold of it; `None` if that decides nothing.
async fn opinion(conn: &mut Conn, node: NodeId, region: RegionId, since: Time) -> QueryResult<Option<NodeHealth>> {
    let views: Vec<(bool, GatewayStatus)> = node_health::table
        .inner_join(gateway_nodes::table.on(gateway_nodes::id.eq(node_health::gateway_node_id)))
        .filter(node_health::outline_node_id.eq(node))
        .filter(node_health::checked_at.ge(since))
        .select((node_health::settled, gateway_nodes::status))
        .load(conn)
        .await?;
    let against = views.iter().filter(|(good, status)| !*good && *status == GatewayStatus::Online).count();
    let live = statuses(conn, region).await?.iter().filter(|status| **status == GatewayStatus::Online).count();
    if against > 0 && against * 2 >= live {
        return Ok(Some(NodeHealth::Unhealthy));
    }
    Ok(views.iter().any(|(good, _)| *good).then_some(NodeHealth::Healthy))
}

/// The states of the gateways that may use a region.
pub(crate) async fn statuses(conn: &mut Conn, region: RegionId) -> QueryResult<Vec<GatewayStatus>> {
    let listed = gateway_exit_regions::table.select(gateway_exit_regions::gateway_node_id);
    let by_list = listed.filter(gateway_exit_regions::region_id.eq(region));
    let at_home = gateway_nodes::region_id.eq(region).and(gateway_nodes::id.ne_all(listed));
    gateway_nodes::table
        .filter(gateway_nodes::revoked.eq(false))
        .filter(at_home.or(gateway_nodes::id.eq_any(by_list)))
        .select(gateway_nodes::status)
        .load(conn)
        .await
}

/// What each gateway holds of a node, with the gateways' names.
pub(crate) async fn views(conn: &mut Conn, node: NodeId) -> QueryResult<Vec<(NodeView, String)>> {
    node_health::table
        .inner_join(gateway_nodes::table.on(gateway_nodes::id.eq(node_health::gateway_node_id)))
        .filter(node_health::outline_node_id.eq(node))
        .select((NodeView::as_select(), gateway_nodes::name))
        .order(gateway_nodes::name)
        .load(conn)
        .await
}
