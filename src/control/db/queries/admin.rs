use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, enrollment, events};
use crate::control::db::Rejected;
use crate::control::db::fault::OTHER_REVISION;
use crate::control::domain::admission::Refusal;
use crate::control::domain::device_limit;
use crate::control::model::id::{
    CodeId, DeviceId, EndpointId, GatewayId, NodeId, PlanId, RegionId, SubscriptionId, UserId,
};
use crate::control::model::revision::Expected;
use crate::control::model::schema::{
    activation_codes, devices, gateway_endpoints, gateway_exit_regions, gateway_nodes, outline_nodes, plans, regions,
    subscriptions, users,
};
use crate::control::model::state::DeviceStatus;
use crate::control::model::types::Time;
use crate::control::model::{
    ActivationCode, Device, DeviceChange, Endpoint, EndpointChange, Gateway, GatewayChange, NewEvent, NodeChange,
    OutlineNode, Plan, PlanChange, Region, RegionChange, Subscription, SubscriptionChange, User, UserChange, Written,
};
use crate::frame::SessionCode;

macro_rules! resource {
    ($module:ident, $table:ident, $id:ty, $row:ty, $change:ty) => {
        pub(crate) mod $module {
            use super::*;

            pub(crate) async fn get(conn: &mut Conn, id: $id) -> QueryResult<$row> {
                $table::table.find(id).select(<$row>::as_select()).first(conn).await
            }

            /// Changes a row that is of an expected revision; one of another is left, and the transaction rolled back.
            pub(crate) async fn update(
                conn: &mut Conn,
                id: $id,
                change: &$change,
                expected: &Expected,
            ) -> QueryResult<$row> {
                let counted = (change, $table::revision.eq($table::revision + 1));
                let changed = match expected {
                    Expected::Any => diesel::update($table::table.find(id)).set(counted).execute(conn).await?,
                    Expected::OneOf(revisions) => {
                        let those = $table::table.filter($table::id.eq(id).and($table::revision.eq_any(revisions)));
                        diesel::update(those).set(counted).execute(conn).await?
                    }
                };
                let row = get(conn, id).await?;
                if changed == 0 { Err(OTHER_REVISION) } else { Ok(row) }
            }
        }
    };
}

macro_rules! creatable {
    ($create:ident, $table:ident, $row:ty) => {
        pub(crate) async fn $create(conn: &mut Conn, row: &$row) -> QueryResult<()> {
            diesel::insert_into($table::table).values(row).execute(conn).await.map(|_| ())
        }
    };
}

resource!(user, users, UserId, User, UserChange);
resource!(device, devices, DeviceId, Device, DeviceChange);
resource!(plan, plans, PlanId, Plan, PlanChange);
resource!(subscription, subscriptions, SubscriptionId, Subscription, SubscriptionChange);
resource!(region, regions, RegionId, Region, RegionChange);
resource!(endpoint, gateway_endpoints, EndpointId, Endpoint, EndpointChange);
resource!(node, outline_nodes, NodeId, OutlineNode, NodeChange);
resource!(gateway, gateway_nodes, GatewayId, Gateway, GatewayChange);

creatable!(create_user, users, User);
creatable!(create_region, regions, Region);
creatable!(create_code, activation_codes, ActivationCode);
creatable!(create_endpoint, gateway_endpoints, Endpoint);

/// One activation code.
pub(crate) async fn get_code(conn: &mut Conn, id: CodeId) -> QueryResult<ActivationCode> {
    activation_codes::table.find(id).select(ActivationCode::as_select()).first(conn).await
}

/// Codes of the exit regions that are listed for a gateway.
pub(crate) async fn exit_codes(conn: &mut Conn, gateway: GatewayId) -> QueryResult<Vec<String>> {
    gateway_exit_regions::table
        .inner_join(regions::table.on(regions::id.eq(gateway_exit_regions::region_id)))
        .filter(gateway_exit_regions::gateway_node_id.eq(gateway))
        .select(regions::code)
        .order(regions::code)
        .load(conn)
        .await
}

/// Makes a gateway with its exit regions.
pub(crate) async fn create_gateway(conn: &mut Conn, row: &Gateway, exits: &[RegionId]) -> QueryResult<()> {
    transaction!(conn, async |conn: &mut Conn| {
        diesel::insert_into(gateway_nodes::table).values(row).execute(conn).await?;
        set_exits(conn, row.id, exits).await
    })
    .await
}

pub(super) async fn set_exits(conn: &mut Conn, gateway: GatewayId, exits: &[RegionId]) -> QueryResult<()> {
    diesel::delete(gateway_exit_regions::table.filter(gateway_exit_regions::gateway_node_id.eq(gateway)))
        .execute(conn)
        .await?;
    for exit in exits {
        let row = (gateway_exit_regions::gateway_node_id.eq(gateway), gateway_exit_regions::region_id.eq(*exit));
        diesel::insert_into(gateway_exit_regions::table).values(row).execute(conn).await?;
    }
    Ok(())
}

/// Makes a device if the user's plan has room for one.
pub(crate) async fn create_device(conn: &mut Conn, row: &Device) -> Result<(), Rejected<Refusal>> {
    transaction!(conn, async |conn: &mut Conn| {
        super::lock_user(conn, row.user_id).await?;
        let held = super::admission::subscription(conn, row.user_id, row.created_at).await?;
        let serving = held.filter(|(subscription, plan)| subscription.serves(plan, row.created_at));
        if let Some((_, plan)) = serving.filter(|(_, plan)| plan.max_devices.is_some()) {
            let count: i64 = devices::table
                .filter(devices::user_id.eq(row.user_id).and(devices::status.eq(DeviceStatus::Active)))
                .count()
                .get_result(conn)
                .await?;
            if !device_limit::has_room(&plan, count) {
                return Err(Refusal::Code(SessionCode::DeviceLimit).into());
            }
        }
        diesel::insert_into(devices::table).values(row).execute(conn).await?;
        Ok(())
    })
    .await
}

/// Changes a user and writes an event, if there is something to tell.
pub(crate) async fn change_user(
    conn: &mut Conn,
    id: UserId,
    change: &UserChange,
    expected: &Expected,
    event: Option<NewEvent>,
    now: Time,
) -> QueryResult<Written<User>> {
    transaction!(conn, async |conn: &mut Conn| {
        let row = user::update(conn, id, change, expected).await?;
        Ok(Written { row, event_seq: tell(conn, event, now).await? })
    })
    .await
}

/// Changes a device under its user's lock; one that is revoked loses its refresh tokens and its sessions.
pub(crate) async fn change_device(
    conn: &mut Conn,
    id: DeviceId,
    change: &DeviceChange,
    expected: &Expected,
    now: Time,
) -> QueryResult<Written<Device>> {
    transaction!(conn, async |conn: &mut Conn| {
        let owner: UserId = devices::table.find(id).select(devices::user_id).first(conn).await?;
        super::lock_user(conn, owner).await?;
        let row = device::update(conn, id, change, expected).await?;
        let event_seq = match change.status {
            Some(DeviceStatus::Revoked) => Some(enrollment::revoke(conn, id, now).await?),
            _ => None,
        };
        Ok(Written { row, event_seq })
    })
    .await
}

pub(super) async fn tell(conn: &mut Conn, event: Option<NewEvent>, now: Time) -> QueryResult<Option<i64>> {
    match event {
        Some(event) => events::emit(conn, event, now).await.map(Some),
        None => Ok(None),
    }
}
