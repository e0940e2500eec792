use std::collections::HashMap;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel_async::RunQueryDsl;

use super::{BYTEWISE, Backend, Conn};
use crate::control::model::filter::{
    CodeFilter, DeviceFilter, EndpointFilter, GatewayFilter, NodeFilter, SessionFilter, SubscriptionFilter, UserFilter,
};
use crate::control::model::id::{
    CodeId, DeviceId, EndpointId, GatewayId, NodeId, PlanId, RegionId, SessionId, SubscriptionId, UserId,
};
use crate::control::model::list::{Cursor, Found, Key, Order, Paging};
use crate::control::model::schema::{
    activation_codes, devices, gateway_endpoints, gateway_nodes, outline_nodes, plans, regions, sessions,
    subscriptions, users,
};
use crate::control::model::sort::{
    CodeSort, DeviceSort, EndpointSort, GatewaySort, NodeSort, PlanSort, RegionSort, SessionSort, SubscriptionSort,
    UserSort,
};
use crate::control::model::state::{NodeHealth, NodeState, NodeStatus, SubscriptionState, SubscriptionStatus};
use crate::control::model::types::Time;
use crate::control::model::{
    ActivationCode, Device, Endpoint, Gateway, OutlineNode, Plan, Region, Session, Subscription, SubscriptionAndPlan,
    User,
};

/// No text is behind those that begin with a prefix and go on with this.
const LAST: char = char::MAX;

/// Orders a query by a column and then the id, from behind a cursor on.
macro_rules! keyset {
    ($query:ident, $table:ident, $paging:ident, $id:ident, $sort:ident { $($variant:ident => $column:ident $kind:ident),* }) => {{
        let at = $paging.after.as_ref();
        match $paging.order {
            $(Order { by: $sort::$variant, descending: false } => {
                if let Some(Cursor { key: Key::$kind(key), id }) = at {
                    let behind = $table::$column.gt(key.clone()).or($table::id.gt($id::from(*id)));
                    $query = $query.filter($table::$column.ge(key.clone()).and(behind));
                }
                $query.order(($table::$column.asc(), $table::id.asc()))
            })*
            $(Order { by: $sort::$variant, descending: true } => {
                if let Some(Cursor { key: Key::$kind(key), id }) = at {
                    let behind = $table::$column.lt(key.clone()).or($table::id.lt($id::from(*id)));
                    $query = $query.filter($table::$column.le(key.clone()).and(behind));
                }
                $query.order(($table::$column.desc(), $table::id.desc()))
            })*
            Order { by: $sort::Id, descending: false } => {
                if let Some(cursor) = at {
                    $query = $query.filter($table::id.gt($id::from(cursor.id)));
                }
                $query.order($table::id.asc())
            }
            Order { by: $sort::Id, descending: true } => {
                if let Some(cursor) = at {
                    $query = $query.filter($table::id.lt($id::from(cursor.id)));
                }
                $query.order($table::id.desc())
            }
        }
    }};
}

/// A list of a table's rows: what is asked for, in which orders.
macro_rules! listed {
    ($list:ident, $table:ident, $row:ident, $id:ident, $sort:ident { $($variant:ident => $column:ident $kind:ident),* },
        |$query:ident, $of:ident: $filter:ty| $narrowed:block) => {
        pub(crate) async fn $list(conn: &mut Conn, $of: &$filter, paging: &Paging<$sort>) -> QueryResult<Found<$row>> {
            let narrow = || -> $table::BoxedQuery<'_, Backend> {
                #[allow(unused_mut, reason = "some lists have no filter")]
                let mut $query = $table::table.into_boxed();
                $narrowed
                $query
            };
            let total = if paging.count { Some(narrow().count().get_result(conn).await?) } else { None };
            let mut query = narrow();
            let query = keyset!(query, $table, paging, $id, $sort { $($variant => $column $kind),* });
            let rows = query.limit(paging.limit + 1).select($row::as_select()).load(conn).await?;
            Ok(Found { rows, total })
        }
    };
}

/// Narrows a query to columns that have the values of a filter, where it has one.
macro_rules! narrow {
    ($query:ident, $of:ident, $table:ident { $($column:ident = $field:ident),+ }) => {
        $(if let Some(value) = $of.$field {
            $query = $query.filter($table::$column.eq(value));
        })+
    };
}

listed!(users, users, User, UserId, UserSort { Identifier => identifier Text }, |query, of: UserFilter| {
    narrow!(query, of, users { identifier_kind = kind, status = status });
    if let Some(identifiers) = &of.identifiers {
        let mut known = users::table.select(users::id).filter(sql::<Bool>("FALSE")).into_boxed();
        for (kind, identifier) in identifiers {
            known = known.or_filter(users::identifier_kind.eq(*kind).and(users::identifier.eq(identifier.clone())));
        }
        query = query.filter(users::id.eq_any(known));
    }
    if let Some(prefix) = &of.prefix {
        let [from, to] = BYTEWISE;
        let from = sql::<Bool>(from).bind::<Text, _>(prefix.clone());
        query = query.filter(from.sql(to).bind::<Text, _>(format!("{prefix}{LAST}")));
    }
});

listed!(devices, devices, Device, DeviceId, DeviceSort {}, |query, of: DeviceFilter| {
    narrow!(query, of, devices { user_id = user, status = status });
});

listed!(
    codes,
    activation_codes,
    ActivationCode,
    CodeId,
    CodeSort { ExpiresAt => expires_at Time },
    |query, of: CodeFilter| {
        narrow!(query, of, activation_codes { user_id = user });
    }
);

listed!(plans, plans, Plan, PlanId, PlanSort { Name => name Text }, |query, _of: ()| {});

listed!(regions, regions, Region, RegionId, RegionSort { Code => code Text }, |query, _of: ()| {});

listed!(endpoints, gateway_endpoints, Endpoint, EndpointId, EndpointSort {}, |query, of: EndpointFilter| {
    narrow!(query, of, gateway_endpoints { gateway_node_id = gateway, state = state });
});

listed!(nodes, outline_nodes, OutlineNode, NodeId, NodeSort { Name => name Text }, |query, of: NodeFilter| {
    narrow!(query, of, outline_nodes { region_id = region });
    let is_bad = outline_nodes::health_status.eq_any(NodeHealth::BAD);
    query = match of.status {
        None => query,
        Some(NodeStatus::Active) => {
            query.filter(outline_nodes::state.eq(NodeState::Active).and(diesel::dsl::not(is_bad)))
        }
        Some(NodeStatus::Offline) => query.filter(outline_nodes::state.eq(NodeState::Active).and(is_bad)),
        Some(NodeStatus::Draining) => query.filter(outline_nodes::state.eq(NodeState::Draining)),
        Some(NodeStatus::Maintenance) => query.filter(outline_nodes::state.eq(NodeState::Maintenance)),
    };
});

listed!(gateways, gateway_nodes, Gateway, GatewayId, GatewaySort { Name => name Text }, |query, of: GatewayFilter| {
    narrow!(query, of, gateway_nodes { region_id = region, status = status, draining = draining });
});

/// What is asked for, and the devices of its user: sessions have an index by device.
pub(crate) struct Opened<'a> {
    filter: &'a SessionFilter,
    devices: Option<Vec<DeviceId>>,
}

listed!(
    opened,
    sessions,
    Session,
    SessionId,
    SessionSort { StartedAt => started_at Time },
    |query, of: Opened<'_>| {
        let filter = of.filter;
        narrow!(query, filter, sessions { device_id = device, gateway_node_id = gateway, state = state });
        if let Some(devices) = &of.devices {
            query = query.filter(sessions::device_id.eq_any(devices.clone()));
        }
        if let Some(node) = filter.node {
            query = query.filter(sessions::outline_node_id.eq(node));
        }
        if let Some(after) = filter.started_after {
            query = query.filter(sessions::started_at.ge(after));
        }
        if let Some(before) = filter.started_before {
            query = query.filter(sessions::started_at.lt(before));
        }
    }
);

/// Sessions.
pub(crate) async fn sessions(
    conn: &mut Conn,
    filter: &SessionFilter,
    paging: &Paging<SessionSort>,
) -> QueryResult<Found<Session>> {
    let devices = match filter.user {
        Some(user) => Some(devices::table.filter(devices::user_id.eq(user)).select(devices::id).load(conn).await?),
        None => None,
    };
    opened(conn, &Opened { filter, devices }, paging).await
}

/// A condition on a subscription's columns.
type Condition = Box<dyn BoxableExpression<subscriptions::table, Backend, SqlType = Bool>>;

/// Subscriptions whose time is over, grace included; `graces` are the hours of grace that plans have.
fn over(graces: &[i32], now: Time) -> Condition {
    let none: Condition = Box::new(subscriptions::id.ne(subscriptions::id));
    graces.iter().fold(none, |others, hours| {
        let cut = now.before(Duration::from_hours(hours.unsigned_abs().into()));
        let with = plans::table.filter(plans::grace_hours.eq(*hours)).select(plans::id);
        Box::new(others.or(subscriptions::valid_until.le(cut).and(subscriptions::plan_id.eq_any(with))))
    })
}

/// Subscriptions that are in a state at a moment; as `Subscription::state` has it.
fn in_state(state: SubscriptionState, graces: &[i32], now: Time) -> Condition {
    let begun = subscriptions::starts_at.le(now);
    let kept = subscriptions::status.eq(SubscriptionStatus::Active);
    match state {
        SubscriptionState::Cancelled => Box::new(subscriptions::status.eq(SubscriptionStatus::Cancelled)),
        SubscriptionState::Expired => {
            Box::new(subscriptions::status.eq(SubscriptionStatus::Expired).or(kept.and(over(graces, now))))
        }
        SubscriptionState::Pending => Box::new(kept.and(diesel::dsl::not(begun))),
        SubscriptionState::Grace => {
            Box::new(kept.and(subscriptions::valid_until.le(now)).and(diesel::dsl::not(over(graces, now))))
        }
        SubscriptionState::Active => Box::new(kept.and(begun).and(subscriptions::valid_until.gt(now))),
    }
}

/// What is asked for, and the hours of grace that plans have.
pub(crate) struct Subscribed<'a> {
    filter: &'a SubscriptionFilter,
    graces: Vec<i32>,
}

listed!(
    subscribed,
    subscriptions,
    Subscription,
    SubscriptionId,
    SubscriptionSort { ValidUntil => valid_until Time },
    |query, of: Subscribed<'_>| {
        let filter = of.filter;
        narrow!(query, filter, subscriptions { user_id = user, plan_id = plan });
        if let Some(after) = filter.ends_after {
            query = query.filter(subscriptions::valid_until.ge(after));
        }
        if let Some(before) = filter.ends_before {
            query = query.filter(subscriptions::valid_until.lt(before));
        }
        if let Some(state) = filter.state {
            query = query.filter(in_state(state, &of.graces, filter.now));
        }
    }
);

/// Subscriptions with their plans.
pub(crate) async fn subscriptions(
    conn: &mut Conn,
    filter: &SubscriptionFilter,
    paging: &Paging<SubscriptionSort>,
) -> QueryResult<Found<SubscriptionAndPlan>> {
    let graces = match filter.state {
        Some(_) => plans::table.select(plans::grace_hours).distinct().load(conn).await?,
        None => Vec::new(),
    };
    let Found { rows, total } = subscribed(conn, &Subscribed { filter, graces }, paging).await?;
    let ids: Vec<PlanId> = rows.iter().map(|row| row.plan_id).collect();
    let plans: Vec<Plan> = plans::table.filter(plans::id.eq_any(ids)).select(Plan::as_select()).load(conn).await?;
    let plans: HashMap<PlanId, Plan> = plans.into_iter().map(|plan| (plan.id, plan)).collect();
    let rows = rows.into_iter().filter_map(|subscription| {
        let plan = plans.get(&subscription.plan_id)?.clone();
        Some(SubscriptionAndPlan { subscription, plan })
    });
    Ok(Found { rows: rows.collect(), total })
}
