use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::admin::tell;
use super::{Conn, session};
use crate::api::EventKind;
use crate::control::db::Doomed;
use crate::control::model::schema::{
    activation_codes, devices, gateway_endpoints, gateway_nodes, outline_nodes, plans, regions, sessions,
    subscriptions, users,
};
use crate::control::model::types::{Id, Time};
use crate::control::model::{holding, live};
use crate::control::runtime::events::Emit;
use crate::frame::SessionCode;

const DELETED_AT_ONCE: usize = 1000;

/// The user whose lock a deletion needs.
async fn owner(conn: &mut Conn, what: Doomed, id: Id) -> QueryResult<Option<Id>> {
    match what {
        Doomed::User => Ok(Some(id)),
        Doomed::Device => devices::table.find(id).select(devices::user_id).first(conn).await.optional(),
        Doomed::Subscription => {
            subscriptions::table.find(id).select(subscriptions::user_id).first(conn).await.optional()
        }
        Doomed::Plan | Doomed::Region | Doomed::Node | Doomed::Gateway | Doomed::Code | Doomed::Endpoint => Ok(None),
    }
}

/// Locks the sessions that a deletion concerns. Those of a user, a device or a gateway are deleted and leave tombstones.
async fn delete_sessions(conn: &mut Conn, what: Doomed, id: Id, now: Time) -> QueryResult<()> {
    let of = sessions::table.select(sessions::id).order(sessions::id).into_boxed();
    let concerned: Vec<Id> = match what {
        Doomed::User => {
            let own: Vec<Id> = locked_devices!(id).load(conn).await?;
            of.filter(sessions::device_id.eq_any(own)).load(conn).await?
        }
        Doomed::Device => of.filter(sessions::device_id.eq(id)).load(conn).await?,
        Doomed::Gateway => of.filter(sessions::gateway_node_id.eq(id)).load(conn).await?,
        Doomed::Subscription => of.filter(sessions::subscription_id.eq(id).and(holding())).load(conn).await?,
        Doomed::Node => of.filter(sessions::outline_node_id.eq(id).and(live())).load(conn).await?,
        Doomed::Plan | Doomed::Region | Doomed::Code | Doomed::Endpoint => Vec::new(),
    };
    if concerned.is_empty() {
        return Ok(());
    }
    super::lock_sessions(conn, &concerned).await?;
    if matches!(what, Doomed::User | Doomed::Device | Doomed::Gateway) {
        for chunk in concerned.chunks(DELETED_AT_ONCE) {
            session::delete(conn, chunk, now).await?;
        }
        session::recount(conn).await?;
    }
    Ok(())
}

/// Takes a subscription or a node that is gone away from the sessions that have it.
async fn bereave(conn: &mut Conn, what: Doomed, id: Id) -> QueryResult<()> {
    match what {
        Doomed::Subscription => {
            diesel::update(sessions::table.filter(sessions::subscription_id.eq(id).and(holding())))
                .set(sessions::subscription_id.eq(None::<Id>))
                .execute(conn)
                .await?
        }
        Doomed::Node => {
            diesel::update(sessions::table.filter(sessions::outline_node_id.eq(id).and(live())))
                .set(sessions::outline_node_id.eq(None::<Id>))
                .execute(conn)
                .await?
        }
        Doomed::User
        | Doomed::Device
        | Doomed::Plan
        | Doomed::Region
        | Doomed::Gateway
        | Doomed::Code
        | Doomed::Endpoint => 0,
    };
    Ok(())
}

/// Deletes a row and what belongs to it.
pub(crate) async fn delete(conn: &mut Conn, what: Doomed, id: Id, now: Time) -> QueryResult<(usize, Option<i64>)> {
    transaction!(conn, async |conn: &mut Conn| {
        let owner = owner(conn, what, id).await?;
        if let Some(owner) = owner {
            super::lock_user(conn, owner).await?;
        }
        delete_sessions(conn, what, id, now).await?;
        let count = match what {
            Doomed::User => diesel::delete(users::table.find(id)).execute(conn).await,
            Doomed::Device => diesel::delete(devices::table.find(id)).execute(conn).await,
            Doomed::Plan => diesel::delete(plans::table.find(id)).execute(conn).await,
            Doomed::Subscription => diesel::delete(subscriptions::table.find(id)).execute(conn).await,
            Doomed::Region => diesel::delete(regions::table.find(id)).execute(conn).await,
            Doomed::Node => diesel::delete(outline_nodes::table.find(id)).execute(conn).await,
            Doomed::Gateway => diesel::delete(gateway_nodes::table.find(id)).execute(conn).await,
            Doomed::Code => diesel::delete(activation_codes::table.find(id)).execute(conn).await,
            Doomed::Endpoint => diesel::delete(gateway_endpoints::table.find(id)).execute(conn).await,
        }?;
        bereave(conn, what, id).await?;
        let emit = match what {
            _ if count == 0 => None,
            Doomed::User => Some(Emit::stopped(EventKind::UserStopped, id, SessionCode::UserBanned)),
            Doomed::Device => Some(Emit::stopped(EventKind::DeviceStopped, id, SessionCode::DeviceBanned)),
            Doomed::Subscription => owner.map(|user| Emit::changed(EventKind::UserChanged, user)),
            Doomed::Node | Doomed::Region => Some(Emit::changed(EventKind::NodesChanged, id)),
            Doomed::Gateway => Some(Emit::changed(EventKind::GatewayChanged, id)),
            Doomed::Plan | Doomed::Code | Doomed::Endpoint => None,
        };
        Ok((count, tell(conn, emit, now).await?))
    })
    .await
}
