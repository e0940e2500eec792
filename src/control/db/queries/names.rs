use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Conn;
use crate::control::model::called::Called;
use crate::control::model::id::{DeviceId, EndpointId, GatewayId, NodeId, PlanId, RegionId, SubscriptionId, UserId};
use crate::control::model::schema::{
    devices, gateway_endpoints, gateway_exit_regions, gateway_nodes, outline_nodes, plan_regions, plans, regions,
    subscriptions, users,
};
use crate::control::model::state::IdentifierKind;
use crate::control::model::{Device, Endpoint};

/// The id of a row that is called by its id or by a name of its own.
macro_rules! called {
    ($find:ident, $named:ident, $table:ident, $name:ident, $id:ident) => {
        pub(crate) async fn $find(conn: &mut Conn, called: &Called) -> QueryResult<Option<$id>> {
            match called {
                Called::Id(id) => $table::table.find($id::from(*id)).select($table::id).first(conn).await.optional(),
                Called::Name(name) => $named(conn, name).await,
            }
        }

        pub(crate) async fn $named(conn: &mut Conn, name: &str) -> QueryResult<Option<$id>> {
            $table::table.filter($table::$name.eq(name)).select($table::id).first(conn).await.optional()
        }
    };
}

called!(plan, plan_named, plans, name, PlanId);
called!(region, region_coded, regions, code, RegionId);
called!(gateway, gateway_named, gateway_nodes, name, GatewayId);

/// Codes of the exit regions that are listed for gateways.
pub(crate) async fn exits_of(conn: &mut Conn, of: &[GatewayId]) -> QueryResult<HashMap<GatewayId, Vec<String>>> {
    let rows: Vec<(GatewayId, String)> = gateway_exit_regions::table
        .inner_join(regions::table.on(regions::id.eq(gateway_exit_regions::region_id)))
        .filter(gateway_exit_regions::gateway_node_id.eq_any(of))
        .select((gateway_exit_regions::gateway_node_id, regions::code))
        .order(regions::code)
        .load(conn)
        .await?;
    let mut codes: HashMap<GatewayId, Vec<String>> = HashMap::new();
    for (gateway, code) in rows {
        codes.entry(gateway).or_default().push(code);
    }
    Ok(codes)
}

/// The user that has an identifier.
pub(crate) async fn user(conn: &mut Conn, kind: IdentifierKind, identifier: &str) -> QueryResult<Option<UserId>> {
    users::table
        .filter(users::identifier_kind.eq(kind).and(users::identifier.eq(identifier)))
        .select(users::id)
        .first(conn)
        .await
        .optional()
}

/// The device that an installation has already.
pub(crate) async fn device(conn: &mut Conn, row: &Device) -> QueryResult<Option<DeviceId>> {
    devices::table
        .filter(devices::user_id.eq(row.user_id).and(devices::device_uuid.eq(&row.device_uuid)))
        .select(devices::id)
        .first(conn)
        .await
        .optional()
}

/// The node at an address.
pub(crate) async fn node(conn: &mut Conn, host: &str, port: i32) -> QueryResult<Option<NodeId>> {
    outline_nodes::table
        .filter(outline_nodes::internal_ip.eq(host).and(outline_nodes::ss_port.eq(port)))
        .select(outline_nodes::id)
        .first(conn)
        .await
        .optional()
}

/// The endpoint of a gateway that has the same address.
pub(crate) async fn endpoint(conn: &mut Conn, row: &Endpoint) -> QueryResult<Option<EndpointId>> {
    gateway_endpoints::table
        .filter(gateway_endpoints::gateway_node_id.eq(row.gateway_node_id).and(gateway_endpoints::host.eq(&row.host)))
        .filter(gateway_endpoints::port.eq(row.port).and(gateway_endpoints::path.eq(&row.path)))
        .select(gateway_endpoints::id)
        .first(conn)
        .await
        .optional()
}

/// A subscription to a plan.
pub(crate) async fn subscriber(conn: &mut Conn, plan: PlanId) -> QueryResult<Option<SubscriptionId>> {
    subscriptions::table.filter(subscriptions::plan_id.eq(plan)).select(subscriptions::id).first(conn).await.optional()
}

/// A node of a region.
pub(crate) async fn node_in(conn: &mut Conn, region: RegionId) -> QueryResult<Option<NodeId>> {
    outline_nodes::table
        .filter(outline_nodes::region_id.eq(region))
        .select(outline_nodes::id)
        .first(conn)
        .await
        .optional()
}

/// A gateway that stands in a region.
pub(crate) async fn gateway_in(conn: &mut Conn, region: RegionId) -> QueryResult<Option<GatewayId>> {
    gateway_nodes::table
        .filter(gateway_nodes::region_id.eq(region))
        .select(gateway_nodes::id)
        .first(conn)
        .await
        .optional()
}

/// A plan that is limited to a region.
pub(crate) async fn plan_in(conn: &mut Conn, region: RegionId) -> QueryResult<Option<PlanId>> {
    plan_regions::table
        .filter(plan_regions::region_id.eq(region))
        .select(plan_regions::plan_id)
        .first(conn)
        .await
        .optional()
}
