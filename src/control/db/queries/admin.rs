use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, enrollment, events};
use crate::control::db::Rejected;
use crate::control::domain::admission::Refusal;
use crate::control::domain::device_limit;
use crate::control::model::id::{
    CodeId, DeviceId, EndpointId, GatewayId, NodeId, PlanId, RegionId, SessionId, SubscriptionId, UserId,
};
use crate::control::model::schema::{
    activation_codes, devices, gateway_endpoints, gateway_exit_regions, gateway_nodes, outline_nodes, plans, regions,
    sessions, subscriptions, users,
};
use crate::control::model::state::DeviceStatus;
use crate::control::model::types::Time;
use crate::control::model::{
    ActivationCode, Device, DeviceChange, Endpoint, EndpointChange, Gateway, GatewayChange, NewEvent, NodeChange,
    OutlineNode, Plan, PlanChange, Region, RegionChange, Session, Subscription, SubscriptionChange, User, UserChange,
};
use crate::frame::SessionCode;

macro_rules! resource {
    ($module:ident, $table:ident, $id:ty, $row:ty, $change:ty) => {
        pub(crate) mod $module {
            use super::*;

            pub(crate) async fn get(conn: &mut Conn, id: $id) -> QueryResult<$row> {
                $table::table.find(id).select(<$row>::as_select()).first(conn).await
            }

            pub(crate) async fn update(conn: &mut Conn, id: $id, change: &$change) -> QueryResult<$row> {
                let changed = diesel::update($table::table.find(id)).set(change).execute(conn).await;
                match changed {
                    Ok(_) | Err(diesel::result::Error::QueryBuilderError(_)) => get(conn, id).await,
                    Err(error) => Err(error),
                }
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

macro_rules! listed {
    ($list:ident, $table:ident, $id:ty, $row:ty $(, $column:ident: $of:ty)?) => {
        pub(crate) async fn $list(
            conn: &mut Conn,
            after: Option<$id>,
            $($column: Option<$of>,)?
            limit: i64,
        ) -> QueryResult<Vec<$row>> {
            let mut query = $table::table.select(<$row>::as_select()).order($table::id).limit(limit).into_boxed();
            if let Some(after) = after {
                query = query.filter($table::id.gt(after));
            }
            $(if let Some(of) = $column {
                query = query.filter($table::$column.eq(of));
            })?
            query.load(conn).await
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

listed!(list_users, users, UserId, User);
listed!(list_devices, devices, DeviceId, Device, user_id: UserId);
listed!(list_plans, plans, PlanId, Plan);
listed!(list_regions, regions, RegionId, Region);
listed!(list_codes, activation_codes, CodeId, ActivationCode, user_id: UserId);
listed!(list_endpoints, gateway_endpoints, EndpointId, Endpoint, gateway_node_id: GatewayId);
listed!(list_nodes, outline_nodes, NodeId, OutlineNode, region_id: RegionId);
listed!(list_gateways, gateway_nodes, GatewayId, Gateway, region_id: RegionId);
listed!(list_sessions_of_device, sessions, SessionId, Session, device_id: DeviceId);

/// Sessions of a user's devices.
pub(crate) async fn list_sessions_of_user(
    conn: &mut Conn,
    after: Option<SessionId>,
    user: UserId,
    limit: i64,
) -> QueryResult<Vec<Session>> {
    let own: Vec<DeviceId> = devices::table.filter(devices::user_id.eq(user)).select(devices::id).load(conn).await?;
    sessions::table
        .filter(sessions::device_id.eq_any(own).and(sessions::id.gt(after.unwrap_or(SessionId::nil()))))
        .select(Session::as_select())
        .order(sessions::id)
        .limit(limit)
        .load(conn)
        .await
}

/// One activation code.
pub(crate) async fn get_code(conn: &mut Conn, id: CodeId) -> QueryResult<ActivationCode> {
    activation_codes::table.find(id).select(ActivationCode::as_select()).first(conn).await
}

/// The region of a code.
pub(crate) async fn region_by_code(conn: &mut Conn, code: &str) -> QueryResult<Option<Region>> {
    regions::table.filter(regions::code.eq(code)).select(Region::as_select()).first(conn).await.optional()
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
    event: Option<NewEvent>,
    now: Time,
) -> QueryResult<(User, Option<i64>)> {
    transaction!(conn, async |conn: &mut Conn| {
        let row = user::update(conn, id, change).await?;
        Ok((row, tell(conn, event, now).await?))
    })
    .await
}

/// Changes a device under its user's lock; one that is revoked loses its refresh tokens and its sessions.
pub(crate) async fn change_device(
    conn: &mut Conn,
    id: DeviceId,
    change: &DeviceChange,
    now: Time,
) -> QueryResult<(Device, Option<i64>)> {
    transaction!(conn, async |conn: &mut Conn| {
        let owner: UserId = devices::table.find(id).select(devices::user_id).first(conn).await?;
        super::lock_user(conn, owner).await?;
        let row = device::update(conn, id, change).await?;
        let event_seq = match change.status {
            Some(DeviceStatus::Revoked) => Some(enrollment::revoke(conn, id, now).await?),
            _ => None,
        };
        Ok((row, event_seq))
    })
    .await
}

pub(super) async fn tell(conn: &mut Conn, event: Option<NewEvent>, now: Time) -> QueryResult<Option<i64>> {
    match event {
        Some(event) => events::emit(conn, event, now).await.map(Some),
        None => Ok(None),
    }
}
