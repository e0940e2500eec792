use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::admin::tell;
use super::{Conn, names, session};
use crate::control::db::Deletable;
use crate::control::model::deletion::{Deletion, Obstacle};
use crate::control::model::id::{DeviceId, NodeId, SessionId, SubscriptionId, UserId};
use crate::control::model::schema::{
    activation_codes, devices, gateway_endpoints, gateway_nodes, outline_nodes, plans, regions, sessions,
    subscriptions, users,
};
use crate::control::model::types::Time;
use crate::control::model::{NewEvent, holding, live};
use crate::frame::SessionCode;

const DELETED_AT_ONCE: usize = 1000;

/// The user whose lock a deletion needs.
async fn owner(conn: &mut Conn, what: Deletable) -> QueryResult<Option<UserId>> {
    match what {
        Deletable::User(id) => Ok(Some(id)),
        Deletable::Device(id) => devices::table.find(id).select(devices::user_id).first(conn).await.optional(),
        Deletable::Subscription(id) => {
            subscriptions::table.find(id).select(subscriptions::user_id).first(conn).await.optional()
        }
        Deletable::Plan(_)
        | Deletable::Region(_)
        | Deletable::Node(_)
        | Deletable::Gateway(_)
        | Deletable::Code(_)
        | Deletable::Endpoint(_) => Ok(None),
    }
}

/// Locks the sessions that a deletion concerns. Those of a user, a device or a gateway are deleted and leave tombstones.
async fn delete_sessions(conn: &mut Conn, what: Deletable, now: Time) -> QueryResult<()> {
    let of = sessions::table.select(sessions::id).order(sessions::id).into_boxed();
    let concerned: Vec<SessionId> = match what {
        Deletable::User(id) => {
            let own: Vec<DeviceId> = locked_devices!(id).load(conn).await?;
            of.filter(sessions::device_id.eq_any(own)).load(conn).await?
        }
        Deletable::Device(id) => of.filter(sessions::device_id.eq(id)).load(conn).await?,
        Deletable::Gateway(id) => of.filter(sessions::gateway_node_id.eq(id)).load(conn).await?,
        Deletable::Subscription(id) => of.filter(sessions::subscription_id.eq(id).and(holding())).load(conn).await?,
        Deletable::Node(id) => of.filter(sessions::outline_node_id.eq(id).and(live())).load(conn).await?,
        Deletable::Plan(_) | Deletable::Region(_) | Deletable::Code(_) | Deletable::Endpoint(_) => Vec::new(),
    };
    if concerned.is_empty() {
        return Ok(());
    }
    super::lock_sessions(conn, &concerned).await?;
    if matches!(what, Deletable::User(_) | Deletable::Device(_) | Deletable::Gateway(_)) {
        for chunk in concerned.chunks(DELETED_AT_ONCE) {
            session::delete(conn, chunk, now).await?;
        }
        session::recount(conn).await?;
    }
    Ok(())
}

/// Takes a subscription or a node that is gone away from the sessions that have it.
async fn detach(conn: &mut Conn, what: Deletable) -> QueryResult<()> {
    match what {
        Deletable::Subscription(id) => {
            diesel::update(sessions::table.filter(sessions::subscription_id.eq(id).and(holding())))
                .set(sessions::subscription_id.eq(None::<SubscriptionId>))
                .execute(conn)
                .await?
        }
        Deletable::Node(id) => {
            diesel::update(sessions::table.filter(sessions::outline_node_id.eq(id).and(live())))
                .set(sessions::outline_node_id.eq(None::<NodeId>))
                .execute(conn)
                .await?
        }
        Deletable::User(_)
        | Deletable::Device(_)
        | Deletable::Plan(_)
        | Deletable::Region(_)
        | Deletable::Gateway(_)
        | Deletable::Code(_)
        | Deletable::Endpoint(_) => 0,
    };
    Ok(())
}

/// Deletes a row and what belongs to it.
pub(crate) async fn delete(conn: &mut Conn, what: Deletable, now: Time) -> QueryResult<Deletion> {
    transaction!(conn, async |conn: &mut Conn| {
        let owner = owner(conn, what).await?;
        if let Some(owner) = owner {
            super::lock_user(conn, owner).await?;
        }
        delete_sessions(conn, what, now).await?;
        let count = match what {
            Deletable::User(id) => diesel::delete(users::table.find(id)).execute(conn).await,
            Deletable::Device(id) => diesel::delete(devices::table.find(id)).execute(conn).await,
            Deletable::Plan(id) => diesel::delete(plans::table.find(id)).execute(conn).await,
            Deletable::Subscription(id) => diesel::delete(subscriptions::table.find(id)).execute(conn).await,
            Deletable::Region(id) => diesel::delete(regions::table.find(id)).execute(conn).await,
            Deletable::Node(id) => diesel::delete(outline_nodes::table.find(id)).execute(conn).await,
            Deletable::Gateway(id) => diesel::delete(gateway_nodes::table.find(id)).execute(conn).await,
            Deletable::Code(id) => diesel::delete(activation_codes::table.find(id)).execute(conn).await,
            Deletable::Endpoint(id) => diesel::delete(gateway_endpoints::table.find(id)).execute(conn).await,
        }?;
        detach(conn, what).await?;
        let event = match what {
            _ if count == 0 => None,
            Deletable::User(id) => Some(NewEvent::UserStopped(id, SessionCode::UserBanned)),
            Deletable::Device(id) => Some(NewEvent::DeviceStopped(id, SessionCode::DeviceBanned)),
            Deletable::Subscription(_) => owner.map(NewEvent::UserChanged),
            Deletable::Node(id) => Some(NewEvent::NodeChanged(id)),
            Deletable::Region(id) => Some(NewEvent::RegionDeleted(id)),
            Deletable::Gateway(id) => Some(NewEvent::GatewayChanged(id)),
            Deletable::Plan(_) | Deletable::Code(_) | Deletable::Endpoint(_) => None,
        };
        Ok(Deletion { count, event_seq: tell(conn, event, now).await? })
    })
    .await
}

/// What refers to something that is to be deleted, if anything does.
pub(crate) async fn in_the_way(conn: &mut Conn, what: Deletable) -> QueryResult<Option<Obstacle>> {
    match what {
        Deletable::Plan(plan) => Ok(names::subscriber(conn, plan).await?.map(Obstacle::Subscriber)),
        Deletable::Region(region) => {
            if let Some(node) = names::node_in(conn, region).await? {
                return Ok(Some(Obstacle::Node(node)));
            }
            if let Some(gateway) = names::gateway_in(conn, region).await? {
                return Ok(Some(Obstacle::Gateway(gateway)));
            }
            Ok(names::plan_in(conn, region).await?.map(Obstacle::Plan))
        }
        Deletable::User(_)
        | Deletable::Device(_)
        | Deletable::Subscription(_)
        | Deletable::Node(_)
        | Deletable::Gateway(_)
        | Deletable::Code(_)
        | Deletable::Endpoint(_) => Ok(None),
    }
}
