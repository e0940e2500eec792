use std::time::Duration;

use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};
use diesel_async::RunQueryDsl;

use super::{Conn, events, lock_nodes, lock_sessions, period, session};
use crate::control::db::Rejected;
use crate::control::db::prepared::{Prepared, places};
use crate::control::domain::admission::{Admission, AdmissionContext, AdmissionRequest, Grant, Live, Refusal, choose};
use crate::control::domain::lease::Balance;
use crate::control::model::NewEvent;
use crate::control::model::id::{DeviceId, GatewayId, NodeId, RegionId, SessionId, UserId};
use crate::control::model::schema::{
    devices, gateway_exit_regions, gateway_nodes, outline_nodes, plan_regions, plans, regions, sessions, subscriptions,
    users,
};
use crate::control::model::state::{DeviceStatus, GatewayStatus, NodeHealth, NodeState, SessionState};
use crate::control::model::types::{SqlTime, SqlUuid, Time};
use crate::control::model::{
    Candidate, Counters, Device, Gateway, NewSession, OutlineNode, Plan, Region, Session, Sighting, Subscription, User,
    live,
};
use crate::frame::SessionCode;

const SUBSCRIPTIONS: i64 = 20;
/// How exactly it is known when a device was there.
const SEEN: Duration = Duration::from_mins(1);

/// The user, his devices, subscriptions with whether their plans allow the region, live sessions.
type Answers = (Vec<(User, String)>, Vec<Device>, Vec<(Subscription, Plan, bool)>, Vec<(SessionId, bool, GatewayId)>);

/// Nodes of a region that may take sessions.
macro_rules! assignable {
    ($region:expr) => {
        outline_nodes::table
            .filter(outline_nodes::region_id.eq($region).and(outline_nodes::state.eq(NodeState::Active)))
            .filter(outline_nodes::health_status.eq_any(NodeHealth::ASSIGNABLE))
            .filter(outline_nodes::active_sessions.lt(outline_nodes::max_sessions))
    };
}

/// Takes a place on a node, if it has one.
macro_rules! place {
    ($region:expr, $node:expr) => {
        Prepared(
            diesel::update(assignable!($region).filter(outline_nodes::id.eq($node)))
                .set(outline_nodes::active_sessions.eq(outline_nodes::active_sessions + 1))
                .returning(OutlineNode::as_returning()),
        )
    };
}

/// The gateway whose token hashes to `hash`.
pub(crate) async fn gateway(conn: &mut Conn, hash: &str) -> QueryResult<Option<Gateway>> {
    gateway_nodes::table
        .filter(gateway_nodes::token_hash.eq(hash).or(gateway_nodes::old_token_hash.eq(hash)))
        .filter(gateway_nodes::revoked.eq(false))
        .select(Gateway::as_select())
        .first(conn)
        .await
        .optional()
}

/// The first use of a new token ends the old one.
pub(crate) async fn end_old_token(conn: &mut Conn, gateway: &Gateway) -> QueryResult<usize> {
    let still = gateway_nodes::id.eq(gateway.id).and(gateway_nodes::token_hash.eq(&gateway.token_hash));
    diesel::update(gateway_nodes::table.filter(still))
        .set(gateway_nodes::old_token_hash.eq(None::<String>))
        .execute(conn)
        .await
}

/// The regions a gateway may use: those listed for it, else its own.
pub(crate) async fn exit_regions(conn: &mut Conn, gateway: &Gateway) -> QueryResult<Vec<Region>> {
    let listed: Vec<Region> = gateway_exit_regions::table
        .inner_join(regions::table.on(regions::id.eq(gateway_exit_regions::region_id)))
        .filter(gateway_exit_regions::gateway_node_id.eq(gateway.id))
        .select(Region::as_select())
        .load(conn)
        .await?;
    if listed.is_empty() {
        return regions::table.filter(regions::id.eq(gateway.region_id)).select(Region::as_select()).load(conn).await;
    }
    Ok(listed)
}

/// The nodes of a region that may take sessions.
pub(crate) async fn candidates(conn: &mut Conn, region: RegionId) -> QueryResult<Vec<Candidate>> {
    assignable!(region).select(Candidate::as_select()).load(conn).await
}

/// Decides on a device and, if asked to, reserves a node for its session. One that was to be new and is not is looked
/// at once more.
pub(crate) async fn admit(conn: &mut Conn, wish: &mut AdmissionRequest) -> Result<Admission, Rejected<Refusal>> {
    let admission = attempt(conn, wish).await;
    if !wish.fresh || !matches!(admission, Err(Rejected::Refused(Refusal::SessionTaken))) {
        return admission;
    }
    wish.fresh = false;
    attempt(conn, wish).await
}

async fn attempt(conn: &mut Conn, wish: &AdmissionRequest) -> Result<Admission, Rejected<Refusal>> {
    transaction!(conn, async |conn: &mut Conn| {
        let Some(session) = wish.session else {
            let (mut facts, _) = facts(conn, wish, SessionId::nil()).await?;
            if let Some((subscription, start)) = facts.account(wish) {
                facts.counters = period::counters(conn, subscription, start).await?;
            }
            let grant = facts.judge(wish)?;
            let seen = last_seen_due(wish, &grant.device);
            return Ok(Admission { grant, assigned: None, allowed: None, event_seq: None, seen });
        };
        let (mut facts, held) = facts(conn, wish, session).await?;
        let freed = give_up(conn, wish, session, &mut facts).await?;
        if !wish.vouched && !held.as_ref().is_some_and(|held| wish.owns(held)) {
            return Err(Refusal::NotVouched.into());
        }
        let replaced = facts.replaced();
        if !replaced.is_empty() {
            lock_sessions(conn, &replaced).await?;
        }
        let mut lent = None;
        if let Some(account) = facts.account(wish) {
            let (counters, bytes) = period::locked(conn, account, wish.now).await?;
            (facts.counters, lent) = (counters, Some(bytes));
        }
        let grant = facts.judge(wish)?;
        let balance = lent.map(|lent| Balance { limit: grant.limit.unwrap_or(0), used: grant.used, lent });
        let mut ended = Vec::new();
        if !grant.replaces.is_empty() {
            lock_nodes(conn).await?;
            for replaced in &grant.replaces {
                if session::end(conn, *replaced, wish.now).await? {
                    ended.push(*replaced);
                }
            }
        }
        let (assigned, allowed) = reserve(conn, wish, &grant, Found { session, held, freed }, balance).await?;
        let mut event_seq = None;
        for replaced in &ended {
            let stop = NewEvent::SessionStopped(*replaced, SessionCode::SessionKilled);
            event_seq = Some(events::emit(conn, stop, wish.now).await?);
        }
        let seen = last_seen_due(wish, &grant.device);
        Ok(Admission { grant, assigned: Some(assigned), allowed, event_seq, seen })
    })
    .await
}

/// A session and its row, if that was looked for and is there.
struct Found {
    session: SessionId,
    held: Option<Session>,
    /// The node of a session that ends for it.
    freed: Option<NodeId>,
}

/// What the database knows of the device, and the session's row if it is looked for and there.
async fn facts(
    conn: &mut Conn,
    wish: &AdmissionRequest,
    session: SessionId,
) -> QueryResult<(AdmissionContext, Option<Session>)> {
    let region = wish.region_or_none();
    let limits = plan_regions::table.filter(plan_regions::plan_id.eq(plans::id));
    let listed = limits.filter(plan_regions::region_id.eq(region));
    let answers: QueryResult<Answers> = pipelined!(conn =>
        locked_user_lightly!(wish.user).load(conn),
        devices::table.filter(devices::user_id.eq(wish.user)).select(Device::as_select()).load(conn),
        subscriptions::table
            .inner_join(plans::table.on(plans::id.eq(subscriptions::plan_id)))
            .filter(subscriptions::user_id.eq(wish.user))
            .select((Subscription::as_select(), Plan::as_select(), not(exists(limits)).or(exists(listed))))
            .order(subscriptions::valid_until.desc())
            .limit(SUBSCRIPTIONS)
            .load(conn),
        Prepared(
            sessions::table
                .filter(sessions::device_id.eq(wish.device).and(sessions::id.ne(session)))
                .filter(live().and(sessions::expires_at.gt(wish.now)))
                .select((sessions::id, sessions::silent, sessions::gateway_node_id))
                .order(sessions::started_at),
        )
        .load(conn),
    );
    let (user, devices, subscribed, mut live) = answers?;
    let (subscription, region_allowed) =
        serving(subscribed, |(subscription, plan, _)| subscription.serves(plan, wish.now))
            .map(|(subscription, plan, allowed)| ((subscription, plan), allowed))
            .unzip();
    let limit =
        subscription.as_ref().and_then(|(_, plan)| plan.max_sessions).map(|max| usize::try_from(max).unwrap_or(0));
    let mut crowded = limit.is_some_and(|max| live.len() >= max);
    let held: Option<Session> =
        if wish.fresh && !crowded { None } else { locked_session!(session).first(conn).await.optional()? };
    if held.as_ref().is_some_and(|held| held.state.is_live()) {
        live.clear();
        crowded = false;
    }
    let theirs: Vec<GatewayId> = live.iter().map(|(.., gateway)| *gateway).collect();
    let staying = if crowded { staying(conn, theirs).await? } else { Vec::new() };
    let device = devices.iter().find(|device| device.id == wish.device).cloned();
    let age = |device: &Device| (device.created_at, device.id);
    let own = device.as_ref().map(age);
    let active = devices.iter().filter(|other| other.status == DeviceStatus::Active);
    let older = active.filter(|other| own.is_some_and(|own| age(other) < own)).count();
    let facts = AdmissionContext {
        region_allowed: region_allowed.unwrap_or(true),
        device,
        user: user.into_iter().next().map(|(user, _)| user),
        subscription,
        counters: Counters::default(),
        older_devices: i64::try_from(older).unwrap_or(i64::MAX),
        live_sessions: live
            .into_iter()
            .map(|(session, silent, gateway)| Live { session, fading: silent || !staying.contains(&gateway) })
            .collect(),
        given_up: None,
    };
    Ok((facts, held))
}

/// Notes the session that the client has given up, if it is the device's and not over; gives its node.
async fn give_up(
    conn: &mut Conn,
    wish: &AdmissionRequest,
    session: SessionId,
    facts: &mut AdmissionContext,
) -> QueryResult<Option<NodeId>> {
    let Some(named) = wish.replaces.filter(|named| *named != session) else { return Ok(None) };
    let found: Option<(SessionId, Option<NodeId>)> = sessions::table
        .find(named)
        .filter(sessions::device_id.eq(wish.device).and(sessions::user_id.eq(wish.user)))
        .filter(sessions::state.ne_all(SessionState::OVER))
        .select((sessions::id, sessions::outline_node_id))
        .first(conn)
        .await
        .optional()?;
    facts.given_up = found.map(|(id, _)| id);
    facts.live_sessions.retain(|live| Some(live.session) != facts.given_up);
    Ok(found.and_then(|(_, node)| node))
}

/// Those of some gateways that are neither draining nor gone.
async fn staying(conn: &mut Conn, ids: Vec<GatewayId>) -> QueryResult<Vec<GatewayId>> {
    gateway_nodes::table
        .filter(gateway_nodes::id.eq_any(ids))
        .filter(gateway_nodes::draining.eq(false).and(gateway_nodes::status.ne(GatewayStatus::Offline)))
        .select(gateway_nodes::id)
        .load(conn)
        .await
}

/// The first that serves, else the first.
fn serving<T>(mut all: Vec<T>, serves: impl Fn(&T) -> bool) -> Option<T> {
    let at = all.iter().position(serves).unwrap_or(0);
    if all.is_empty() { None } else { Some(all.swap_remove(at)) }
}

/// The subscription that serves and ends last, else the one that ended last.
pub(crate) async fn subscription(
    conn: &mut Conn,
    user: UserId,
    now: Time,
) -> QueryResult<Option<(Subscription, Plan)>> {
    let all: Vec<(Subscription, Plan)> = subscriptions::table
        .inner_join(plans::table.on(plans::id.eq(subscriptions::plan_id)))
        .filter(subscriptions::user_id.eq(user))
        .select((Subscription::as_select(), Plan::as_select()))
        .order(subscriptions::valid_until.desc())
        .limit(SUBSCRIPTIONS)
        .load(conn)
        .await?;
    Ok(serving(all, |(subscription, plan)| subscription.serves(plan, now)))
}

/// Notes when devices were there, unless it is known better; a version that is not known leaves the one that is.
pub(crate) async fn record_last_seen(conn: &mut Conn, sightings: &[(DeviceId, Sighting)]) -> QueryResult<usize> {
    let sql = format!(
        "UPDATE devices SET last_seen_at = v.column2, client_version = coalesce(v.column3, devices.client_version) \
         FROM (VALUES {}) AS v WHERE devices.id = v.column1 \
         AND (devices.last_seen_at IS NULL OR devices.last_seen_at < v.column2)",
        places(sightings.len(), 3),
    );
    transaction!(conn, async |conn: &mut Conn| {
        let mut query = diesel::sql_query(sql.as_str()).into_boxed();
        for (device, (at, version)) in sightings {
            query = query.bind::<SqlUuid, _>(device).bind::<SqlTime, _>(at).bind::<Nullable<Text>, _>(version);
        }
        query.execute(conn).await
    })
    .await
}

/// When the device was there and with which version of its app, unless that is known well enough.
fn last_seen_due(wish: &AdmissionRequest, known: &Device) -> Option<Sighting> {
    let lately = known.last_seen_at.is_some_and(|at| wish.now.before(SEEN) < at);
    let updated = wish.client_version.is_some() && wish.client_version != known.client_version;
    (!lately || updated).then(|| (wish.now, wish.client_version.clone()))
}

async fn reserve(
    conn: &mut Conn,
    wish: &AdmissionRequest,
    grant: &Grant,
    found: Found,
    balance: Option<Balance>,
) -> Result<((OutlineNode, Vec<NodeId>), Option<u64>), Rejected<Refusal>> {
    let Found { session, held, freed } = found;
    let mut order = choose(wish.nodes.clone(), wish.random);
    order.extend(freed.filter(|node| wish.can_reach(*node) && order.iter().all(|other| other.id != *node)).map(last));
    let alternates = |node: NodeId| order.iter().map(|other| other.id).filter(|id| *id != node).collect();
    if let Some(held) = held {
        let (node, allowed) = rebook(conn, wish, grant, &held, &order).await?;
        let alternates = alternates(node.id);
        return Ok(((node, alternates), allowed));
    }
    let [first, others @ ..] = order.as_slice() else { return Err(Refusal::Code(SessionCode::NoNodeAvailable).into()) };
    let region = wish.region_or_none();
    let lent = balance.map(|mut balance| balance.lend(0, true, &wish.rules));
    let row = NewSession {
        id: session,
        user_id: grant.user.id,
        device_id: wish.device,
        subscription_id: Some(grant.subscription.id),
        gateway_node_id: wish.gateway.id,
        outline_node_id: Some(first.id),
        state: SessionState::Reserved,
        started_at: wish.now,
        expires_at: wish.now.after(wish.rules.reservation_ttl),
        bytes_up: 0,
        bytes_down: 0,
        lease_bytes: i64::try_from(lent.unwrap_or(0)).unwrap_or(i64::MAX),
        lease_period: Some(grant.plan.period(&grant.subscription, wish.now, &wish.rules.calendar).start),
        silent: false,
    };
    let written: QueryResult<(usize, Vec<OutlineNode>)> = pipelined!(conn =>
        Prepared(diesel::insert_into(sessions::table).values(row).on_conflict(sessions::id).do_nothing()).execute(conn),
        place!(region, first.id).load(conn),
    );
    let (made, mut taken) = written?;
    if made == 0 {
        return Err(Refusal::SessionTaken.into());
    }
    let node = if let Some(node) = taken.pop() {
        node
    } else {
        let node = take(conn, region, others).await?;
        let change = sessions::outline_node_id.eq(node.id);
        diesel::update(sessions::table.find(session)).set(change).execute(conn).await?;
        node
    };
    let alternates = alternates(node.id);
    Ok(((node, alternates), lent))
}

/// A node that was full until now.
fn last(id: NodeId) -> Candidate {
    Candidate { id, max_sessions: 1, active_sessions: 0, weight: 1, health_status: NodeHealth::Unknown }
}

/// Takes a place on the first of the nodes that has one.
async fn take(conn: &mut Conn, region: RegionId, order: &[Candidate]) -> Result<OutlineNode, Rejected<Refusal>> {
    for node in order {
        if let Some(node) = place!(region, node.id).load(conn).await?.pop() {
            return Ok(node);
        }
    }
    Err(Refusal::Code(SessionCode::NoNodeAvailable).into())
}

/// Gives a session that is there already another node; what it holds of its lease stays.
async fn rebook(
    conn: &mut Conn,
    wish: &AdmissionRequest,
    grant: &Grant,
    held: &Session,
    order: &[Candidate],
) -> Result<(OutlineNode, Option<u64>), Rejected<Refusal>> {
    if held.device_id != wish.device || held.gateway_node_id != wish.gateway.id {
        return Err(Refusal::SessionTaken.into());
    }
    if held.state.is_over() {
        return Err(Refusal::Code(SessionCode::SessionKilled).into());
    }
    let is_live = held.state.is_live();
    if let Some(old) = held.outline_node_id.filter(|_| is_live) {
        lock_nodes(conn).await?;
        diesel::update(outline_nodes::table.find(old))
            .set(outline_nodes::active_sessions.eq(outline_nodes::active_sessions - 1))
            .execute(conn)
            .await?;
    }
    let node = take(conn, wish.region_or_none(), order).await?;
    let allowed = match grant.limit {
        Some(_) if held.lease_period.is_some() && wish.now < held.expires_at => Some(held.lease_bytes),
        Some(_) => Some(held.bytes_up.saturating_add(held.bytes_down)),
        None => None,
    };
    let state = if is_live { held.state } else { SessionState::Reserved };
    let change = (
        sessions::outline_node_id.eq(node.id),
        sessions::state.eq(state),
        sessions::ended_at.eq(None::<Time>),
        sessions::expires_at.eq(held.expires_at.max(wish.now.after(wish.rules.reservation_ttl))),
        sessions::lease_bytes.eq(allowed.unwrap_or(0)),
    );
    diesel::update(sessions::table.find(held.id)).set(change).execute(conn).await?;
    Ok((node, allowed.map(i64::unsigned_abs)))
}
