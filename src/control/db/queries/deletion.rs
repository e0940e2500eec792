use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::admin::tell;
use super::{Conn, session};
use crate::api::EventKind;
use crate::control::db::Deletable;
use crate::control::model::Emit;
use crate::control::model::schema::{
    activation_codes, devices, gateway_endpoints, gateway_nodes, outline_nodes, plans, regions, sessions,
    subscriptions, users,
};
use crate::control::model::types::{Id, Time};
use crate::control::model::{holding, live};
use crate::frame::SessionCode;

const DELETED_AT_ONCE: usize = 1000;

/// The user whose lock a deletion needs.
async fn owner(conn: &mut Conn, what: Deletable, id: Id) -> QueryResult<Option<Id>> {
    match what {
        Deletable::User => Ok(Some(id)),
        Deletable::Device => devices::table.find(id).select(devices::user_id).first(conn).await.optional(),
        Deletable::Subscription => {
            subscriptions::table.find(id).select(subscriptions::user_id).first(conn).await.optional()
        }
        Deletable::Plan
        | Deletable::Region
        | Deletable::Node
        | Deletable::Gateway
        | Deletable::Code
        | Deletable::Endpoint => Ok(None),
    }
}

/// Locks the sessions that a deletion concerns. Those of a user, a device or a gateway are deleted and leave tombstones.
async fn delete_sessions(conn: &mut Conn, what: Deletable, id: Id, now: Time) -> QueryResult<()> {
    let of = sessions::table.select(sessions::id).order(sessions::id).into_boxed();
    let concerned: Vec<Id> = match what {
        Deletable::User => {
            let own: Vec<Id> = locked_devices!(id).load(conn).await?;
            of.filter(sessions::device_id.eq_any(own)).load(conn).await?
        }
        Deletable::Device => of.filter(sessions::device_id.eq(id)).load(conn).await?,
        Deletable::Gateway => of.filter(sessions::gateway_node_id.eq(id)).load(conn).await?,
        Deletable::Subscription => of.filter(sessions::subscription_id.eq(id).and(holding())).load(conn).await?,
        Deletable::Node => of.filter(sessions::outline_node_id.eq(id).and(live())).load(conn).await?,
        Deletable::Plan | Deletable::Region | Deletable::Code | Deletable::Endpoint => Vec::new(),
    };
    if concerned.is_empty() {
        return Ok(());
    }
    super::lock_sessions(conn, &concerned).await?;
    if matches!(what, Deletable::User | Deletable::Device | Deletable::Gateway) {
        for chunk in concerned.chunks(DELETED_AT_ONCE) {
            session::delete(conn, chunk, now).await?;
        }
        session::recount(conn).await?;
    }
    Ok(())
}

/// Takes a subscription or a node that is gone away from the sessions that have it.
async fn detach(conn: &mut Conn, what: Deletable, id: Id) -> QueryResult<()> {
    match what {
        Deletable::Subscription => {
            diesel::update(sessions::table.filter(sessions::subscription_id.eq(id).and(holding())))
                .set(sessions::subscription_id.eq(None::<Id>))
                .execute(conn)
                .await?
        }
        Deletable::Node => {
            diesel::update(sessions::table.filter(sessions::outline_node_id.eq(id).and(live())))
                .set(sessions::outline_node_id.eq(None::<Id>))
                .execute(conn)
                .await?
        }
        Deletable::User
        | Deletable::Device
        | Deletable::Plan
        | Deletable::Region
        | Deletable::Gateway
        | Deletable::Code
        | Deletable::Endpoint => 0,
    };
    Ok(())
}

/// Deletes a row and what belongs to it.
pub(crate) async fn delete(conn: &mut Conn, what: Deletable, id: Id, now: Time) -> QueryResult<(usize, Option<i64>)> {
    transaction!(conn, async |conn: &mut Conn| {
        let owner = owner(conn, what, id).await?;
        if let Some(owner) = owner {
            super::lock_user(conn, owner).await?;
        }
        delete_sessions(conn, what, id, now).await?;
        let count = match what {
            Deletable::User => diesel::delete(users::table.find(id)).execute(conn).await,
            Deletable::Device => diesel::delete(devices::table.find(id)).execute(conn).await,
            Deletable::Plan => diesel::delete(plans::table.find(id)).execute(conn).await,
            Deletable::Subscription => diesel::delete(subscriptions::table.find(id)).execute(conn).await,
            Deletable::Region => diesel::delete(regions::table.find(id)).execute(conn).await,
            Deletable::Node => diesel::delete(outline_nodes::table.find(id)).execute(conn).await,
            Deletable::Gateway => diesel::delete(gateway_nodes::table.find(id)).execute(conn).await,
            Deletable::Code => diesel::delete(activation_codes::table.find(id)).execute(conn).await,
            Deletable::Endpoint => diesel::delete(gateway_endpoints::table.find(id)).execute(conn).await,
        }?;
        detach(conn, what, id).await?;
        let emit = match what {
            _ if count == 0 => None,
            Deletable::User => Some(Emit::stopped(EventKind::UserStopped, id, SessionCode::UserBanned)),
            Deletable::Device => Some(Emit::stopped(EventKind::DeviceStopped, id, SessionCode::DeviceBanned)),
            Deletable::Subscription => owner.map(|user| Emit::changed(EventKind::UserChanged, user)),
            Deletable::Node | Deletable::Region => Some(Emit::changed(EventKind::NodesChanged, id)),
            Deletable::Gateway => Some(Emit::changed(EventKind::GatewayChanged, id)),
            Deletable::Plan | Deletable::Code | Deletable::Endpoint => None,
        };
        Ok((count, tell(conn, emit, now).await?))
    })
    .await
}
