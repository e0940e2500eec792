use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, admission, enrollment, lock_user};
use crate::control::domain::catalog::Offer;
use crate::control::model::id::{DeviceId, GatewayId, RegionId, UserId};
use crate::control::model::schema::{
    devices, gateway_endpoints, gateway_exit_regions, gateway_nodes, outline_nodes, plan_regions, regions, users,
};
use crate::control::model::state::{DeviceStatus, GatewayStatus, NodeHealth, NodeState, UserStatus};
use crate::control::model::types::Time;
use crate::control::model::{Device, Endpoint, Region};

const DEVICES_SHOWN: i64 = 100;

/// Status of a device and of its user, if the device is his.
pub(crate) async fn statuses(
    conn: &mut Conn,
    device: DeviceId,
    user: UserId,
) -> QueryResult<Option<(DeviceStatus, UserStatus)>> {
    devices::table
        .inner_join(users::table.on(users::id.eq(devices::user_id)))
        .filter(devices::id.eq(device).and(devices::user_id.eq(user)))
        .select((devices::status, users::status))
        .first(conn)
        .await
        .optional()
}

/// The gateways that take sessions, and the regions of the user's plan.
pub(crate) async fn offer(conn: &mut Conn, user: UserId, now: Time) -> QueryResult<Offer> {
    let found = admission::subscription(conn, user, now).await?;
    let plan = found.filter(|(subscription, plan)| subscription.serves(plan, now)).map(|(_, plan)| plan.id);
    let allowed: Vec<RegionId> = match plan {
        Some(plan) => {
            let of_plan = plan_regions::table.filter(plan_regions::plan_id.eq(plan));
            of_plan.select(plan_regions::region_id).load(conn).await?
        }
        None => Vec::new(),
    };
    let gateways: Vec<(GatewayId, RegionId)> = gateway_nodes::table
        .filter(gateway_nodes::revoked.eq(false).and(gateway_nodes::draining.eq(false)))
        .filter(gateway_nodes::status.ne(GatewayStatus::Offline))
        .select((gateway_nodes::id, gateway_nodes::region_id))
        .load(conn)
        .await?;
    let exits: Vec<(GatewayId, RegionId)> = gateway_exit_regions::table
        .select((gateway_exit_regions::gateway_node_id, gateway_exit_regions::region_id))
        .load(conn)
        .await?;
    let endpoints: Vec<Endpoint> =
        gateway_endpoints::table.select(Endpoint::as_select()).order(gateway_endpoints::id).load(conn).await?;
    let regions: Vec<Region> = regions::table.select(Region::as_select()).order(regions::code).load(conn).await?;
    let half_closing = half_closing(conn).await?;
    Ok(Offer { regions, half_closing, gateways, exits, endpoints, allowed })
}

/// Regions that have nodes which may take sessions, all of which keep half closes.
async fn half_closing(conn: &mut Conn) -> QueryResult<Vec<RegionId>> {
    let found: Vec<(RegionId, Option<bool>)> = outline_nodes::table
        .filter(
            outline_nodes::state.eq(NodeState::Active).and(outline_nodes::health_status.eq_any(NodeHealth::ASSIGNABLE)),
        )
        .select((outline_nodes::region_id, outline_nodes::half_close))
        .distinct()
        .load(conn)
        .await?;
    let keeps = |region: RegionId| found.iter().all(|(other, kept)| *other != region || *kept == Some(true));
    let mut regions: Vec<RegionId> = found.iter().map(|(region, _)| *region).filter(|region| keeps(*region)).collect();
    regions.dedup();
    Ok(regions)
}

/// A user's devices, active ones first.
pub(crate) async fn devices_of(conn: &mut Conn, user: UserId) -> QueryResult<Vec<Device>> {
    devices::table
        .filter(devices::user_id.eq(user))
        .select(Device::as_select())
        .order((devices::status, devices::id))
        .limit(DEVICES_SHOWN)
        .load(conn)
        .await
}

/// Revokes a device of a user for good: its refresh tokens go, its sessions end.
pub(crate) async fn revoke_device(conn: &mut Conn, user: UserId, device: DeviceId, now: Time) -> QueryResult<()> {
    transaction!(conn, async |conn: &mut Conn| {
        lock_user(conn, user).await?;
        let status: DeviceStatus = devices::table
            .filter(devices::id.eq(device).and(devices::user_id.eq(user)))
            .select(devices::status)
            .first(conn)
            .await?;
        if status != DeviceStatus::Revoked {
            enrollment::revoke(conn, device, now).await?;
        }
        Ok(())
    })
    .await
}

/// Gives a device of a user another name.
pub(crate) async fn rename_device(conn: &mut Conn, user: UserId, device: DeviceId, name: &str) -> QueryResult<Device> {
    let own = devices::table.filter(devices::id.eq(device).and(devices::user_id.eq(user)));
    diesel::update(own).set(devices::name.eq(name)).execute(conn).await?;
    let own = devices::table.filter(devices::id.eq(device).and(devices::user_id.eq(user)));
    own.select(Device::as_select()).first(conn).await
}
