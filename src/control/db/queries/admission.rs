use std::time::Duration;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{Conn, events, lock_nodes, lock_sessions, session};
use crate::api::EventKind;
use crate::control::admission::{Admission, Facts, Grant, Live, Refusal, Wish, choose};
use crate::control::db::prepared::Prepared;
use crate::control::db::schema::{
    devices, gateway_exit_regions, gateway_nodes, outline_nodes, plan_regions, plans, regions, sessions, subscriptions,
    usage_periods, users,
};
use crate::control::db::types::{Id, Time};
use crate::control::events::Emit;
use crate::control::lease::Balance;
use crate::control::models::{
    Candidate, Device, Gateway, NewSession, OutlineNode, Plan, Region, Session, Subscription, User, holding, live,
    state,
};
use crate::frame::SessionCode;

const SUBSCRIPTIONS: i64 = 20;
/// How exactly it is known when a device was there.
const SEEN: Duration = Duration::from_secs(60);

/// The user, his devices, subscriptions, live sessions, regions of plans, the session, nodes.
type Answers = (
    Vec<(User, String)>,
    Vec<Device>,
    Vec<(Subscription, Plan)>,
    Vec<(Id, bool, Id)>,
    Vec<(Id, Id)>,
    Vec<Session>,
    Vec<Candidate>,
);

/// Bytes up, down and bought of a period; bytes lent, up and down of a session.
type Counters = (i64, i64, i64);

/// Takes a place on a node, if it has one.
macro_rules! place {
    ($node:expr) => {
        Prepared(
            diesel::update(
                outline_nodes::table
                    .filter(outline_nodes::id.eq($node))
                    .filter(outline_nodes::active_sessions.lt(outline_nodes::max_sessions)),
            )
            .set(outline_nodes::active_sessions.eq(outline_nodes::active_sessions + 1))
            .returning(OutlineNode::as_returning()),
        )
    };
}

/// Notes [`news`] of a device.
macro_rules! seen {
    ($conn:expr, $device:expr, $news:expr) => {
        async {
            let Some((at, version)) = $news else { return Ok(0) };
            let change = (devices::last_seen_at.eq(at), devices::client_version.eq(version));
            Prepared(diesel::update(devices::table.find($device)).set(change)).execute($conn).await
        }
    };
}

/// The gateway whose token hashes to `hash`; the first use of a new token ends the old one.
pub(crate) async fn gateway(conn: &mut Conn, hash: &str) -> QueryResult<Option<Gateway>> {
    let found: Option<Gateway> = gateway_nodes::table
        .filter(gateway_nodes::token_hash.eq(hash).or(gateway_nodes::old_token_hash.eq(hash)))
        .filter(gateway_nodes::revoked.eq(false))
        .select(Gateway::as_select())
        .first(conn)
        .await
        .optional()?;
    if let Some(gateway) = &found
        && gateway.token_hash == hash
        && gateway.old_token_hash.is_some()
    {
        let still = gateway_nodes::id.eq(gateway.id).and(gateway_nodes::token_hash.eq(hash));
        diesel::update(gateway_nodes::table.filter(still))
            .set(gateway_nodes::old_token_hash.eq(None::<String>))
            .execute(conn)
            .await?;
    }
    Ok(found)
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

/// Decides on a device and, if asked to, reserves a node for its session.
pub(crate) async fn admit(conn: &mut Conn, wish: Wish) -> Result<Admission, Refusal> {
    transaction!(conn, async |conn: &mut Conn| {
        let Some(session) = wish.session else {
            let (mut facts, _) = facts(conn, &wish, Id(Uuid::nil())).await?;
            (facts.used, facts.bonus) = used(conn, &facts, &wish).await?;
            let grant = facts.judge(&wish)?;
            seen!(conn, grant.device.id, news(&wish, &grant.device)).await?;
            return Ok(Admission { grant, assigned: None, allowed: None, told: None });
        };
        let (mut facts, found) = facts(conn, &wish, session).await?;
        let replaced = facts.replaced();
        if !replaced.is_empty() {
            lock_sessions(conn, &replaced).await?;
        }
        let balance = balance(conn, &facts, &wish).await?;
        (facts.used, facts.bonus) = balance.as_ref().map_or((0, 0), |(balance, bonus)| (balance.used, *bonus));
        let grant = facts.judge(&wish)?;
        let balance = balance.map(|(balance, _)| Balance { limit: grant.limit.unwrap_or(0), ..balance });
        if !grant.replaces.is_empty() {
            lock_nodes(conn).await?;
            for replaced in &grant.replaces {
                session::end(conn, *replaced, wish.now).await?;
            }
        }
        let (assigned, allowed) = reserve(conn, &wish, &grant, found, balance).await?;
        let mut told = None;
        for replaced in &grant.replaces {
            let stop = Emit::stopped(EventKind::SessionStopped, *replaced, SessionCode::SessionKilled);
            told = Some(events::emit(conn, stop, wish.now).await?);
        }
        Ok(Admission { grant, assigned: Some(assigned), allowed, told })
    })
    .await
}

/// The session's row, if it has one, and the nodes that may take it.
struct Found {
    session: Id,
    held: Option<Session>,
    candidates: Vec<Candidate>,
}

async fn facts(conn: &mut Conn, wish: &Wish, session: Id) -> QueryResult<(Facts, Found)> {
    let region = wish.region_id().unwrap_or(Id(Uuid::nil()));
    let answers: QueryResult<Answers> = together!(conn =>
        locked_user_lightly!(wish.user).load(conn),
        devices::table.filter(devices::user_id.eq(wish.user)).select(Device::as_select()).load(conn),
        subscriptions::table
            .inner_join(plans::table.on(plans::id.eq(subscriptions::plan_id)))
            .filter(subscriptions::user_id.eq(wish.user))
            .select((Subscription::as_select(), Plan::as_select()))
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
        plan_regions::table
            .inner_join(subscriptions::table.on(subscriptions::plan_id.eq(plan_regions::plan_id)))
            .filter(subscriptions::user_id.eq(wish.user))
            .select((plan_regions::plan_id, plan_regions::region_id))
            .load(conn),
        locked_session!(session).load(conn),
        outline_nodes::table
            .filter(outline_nodes::region_id.eq(region).and(outline_nodes::state.eq("active")))
            .filter(outline_nodes::health_status.eq_any(["healthy", "unknown"]))
            .filter(outline_nodes::active_sessions.lt(outline_nodes::max_sessions))
            .filter(outline_nodes::id.ne_all(wish.exclude.clone()))
            .select(Candidate::as_select())
            .load(conn),
    );
    let (user, devices, subscribed, live, limits, held, candidates) = answers?;
    let subscription = serving(subscribed, wish.now);
    let limit = subscription.as_ref().and_then(|(_, plan)| plan.max_sessions);
    let has_its_place = held.iter().any(|held| state::LIVE.contains(&held.state.as_str()));
    let live = if has_its_place { Vec::new() } else { live };
    let crowded = limit.is_some_and(|max| live.len() >= usize::try_from(max).unwrap_or(0));
    let theirs: Vec<Id> = live.iter().map(|(.., gateway)| *gateway).collect();
    let staying = if crowded { staying(conn, theirs).await? } else { Vec::new() };
    let device = devices.iter().find(|device| device.id == wish.device).cloned();
    let age = |device: &Device| (device.created_at, device.id);
    let own = device.as_ref().map(age);
    let active = devices.iter().filter(|other| other.status == "active");
    let older = active.filter(|other| own.is_some_and(|own| age(other) < own)).count();
    let plan = subscription.as_ref().map(|(_, plan)| plan.id);
    let mut allowed = limits.iter().filter(|(of, _)| Some(*of) == plan).map(|(_, region)| *region).peekable();
    let facts = Facts {
        region_allowed: allowed.peek().is_none() || allowed.any(|allowed| allowed == region),
        device,
        user: user.into_iter().next().map(|(user, _)| user),
        subscription,
        used: 0,
        bonus: 0,
        older_devices: i64::try_from(older).unwrap_or(i64::MAX),
        live_sessions: live
            .into_iter()
            .map(|(session, silent, gateway)| Live { session, fading: silent || !staying.contains(&gateway) })
            .collect(),
    };
    Ok((facts, Found { session, held: held.into_iter().next(), candidates }))
}

/// Those of some gateways that are neither draining nor gone.
async fn staying(conn: &mut Conn, ids: Vec<Id>) -> QueryResult<Vec<Id>> {
    gateway_nodes::table
        .filter(gateway_nodes::id.eq_any(ids))
        .filter(gateway_nodes::draining.eq(false).and(gateway_nodes::status.ne("offline")))
        .select(gateway_nodes::id)
        .load(conn)
        .await
}

fn serving(mut all: Vec<(Subscription, Plan)>, now: Time) -> Option<(Subscription, Plan)> {
    let at = all.iter().position(|(subscription, plan)| subscription.serves(plan, now)).unwrap_or(0);
    if all.is_empty() { None } else { Some(all.swap_remove(at)) }
}

/// The subscription that serves and ends last, else the one that ended last.
pub(crate) async fn subscription(conn: &mut Conn, user: Id, now: Time) -> QueryResult<Option<(Subscription, Plan)>> {
    let all: Vec<(Subscription, Plan)> = subscriptions::table
        .inner_join(plans::table.on(plans::id.eq(subscriptions::plan_id)))
        .filter(subscriptions::user_id.eq(user))
        .select((Subscription::as_select(), Plan::as_select()))
        .order(subscriptions::valid_until.desc())
        .limit(SUBSCRIPTIONS)
        .load(conn)
        .await?;
    Ok(serving(all, now))
}

/// Bytes charged and bytes bought in this period.
async fn used(conn: &mut Conn, facts: &Facts, wish: &Wish) -> QueryResult<(u64, u64)> {
    let Some((subscription, start)) = facts.account(wish) else { return Ok((0, 0)) };
    let used: Option<(i64, i64, i64)> = usage_periods::table
        .find((subscription, start))
        .select((usage_periods::bytes_up, usage_periods::bytes_down, usage_periods::bonus_bytes))
        .first(conn)
        .await
        .optional()?;
    let (up, down, bonus) = used.unwrap_or_default();
    Ok((up.unsigned_abs().saturating_add(down.unsigned_abs()), bonus.unsigned_abs()))
}

/// What is used and lent in this period, and bytes bought for it, under the lock of the period's row.
async fn balance(conn: &mut Conn, facts: &Facts, wish: &Wish) -> QueryResult<Option<(Balance, u64)>> {
    let Some((subscription, period)) = facts.account(wish) else { return Ok(None) };
    let row = (
        usage_periods::subscription_id.eq(subscription),
        usage_periods::period_start.eq(period),
        usage_periods::bytes_up.eq(0),
        usage_periods::bytes_down.eq(0),
        usage_periods::bonus_bytes.eq(0),
    );
    let locked = diesel::insert_into(usage_periods::table)
        .values(row)
        .on_conflict((usage_periods::subscription_id, usage_periods::period_start))
        .do_update()
        .set(usage_periods::bytes_up.eq(usage_periods::bytes_up))
        .returning((usage_periods::bytes_up, usage_periods::bytes_down, usage_periods::bonus_bytes));
    let ((up, down, bonus), held): (Counters, Vec<Counters>) = together!(conn =>
        Prepared(locked).get_result(conn),
        Prepared(
            sessions::table
                .filter(sessions::subscription_id.eq(subscription).and(sessions::lease_period.eq(period)))
                .filter(holding().and(sessions::expires_at.gt(wish.now)))
                .select((sessions::lease_bytes, sessions::bytes_up, sessions::bytes_down)),
        )
        .load(conn),
    )?;
    let unused = |(lease, up, down): (i64, i64, i64)| lease.saturating_sub(up.saturating_add(down)).max(0);
    let lent = held.into_iter().map(unused).fold(0, i64::saturating_add).unsigned_abs();
    let used = up.saturating_add(down).unsigned_abs();
    Ok(Some((Balance { limit: 0, used, lent }, bonus.unsigned_abs())))
}

/// When the device was there and with which version of its app, unless that is known well enough.
fn news(wish: &Wish, known: &Device) -> Option<(Time, Option<String>)> {
    let version = wish.client_version.as_ref().or(known.client_version.as_ref());
    let lately = known.last_seen_at.is_some_and(|at| wish.now.before(SEEN) < at);
    (!lately || version != known.client_version.as_ref()).then(|| (wish.now, version.cloned()))
}

async fn reserve(
    conn: &mut Conn,
    wish: &Wish,
    grant: &Grant,
    found: Found,
    balance: Option<Balance>,
) -> Result<((OutlineNode, Vec<Id>), Option<u64>), Refusal> {
    let Found { session, held, candidates } = found;
    let order = choose(candidates, wish.random);
    let alternates = |node: Id| order.iter().map(|other| other.id).filter(|id| *id != node).collect();
    if let Some(held) = held {
        let (node, allowed) = rebook(conn, wish, grant, &held, &order).await?;
        let alternates = alternates(node.id);
        return Ok(((node, alternates), allowed));
    }
    let [first, others @ ..] = order.as_slice() else { return Err(Refusal::Code(SessionCode::NoNodeAvailable)) };
    let lent = balance.map(|mut balance| balance.lend(0, true, &wish.rules));
    let row = NewSession {
        id: session,
        user_id: grant.user.id,
        device_id: wish.device,
        subscription_id: Some(grant.subscription.id),
        gateway_node_id: wish.gateway.id,
        outline_node_id: Some(first.id),
        state: state::RESERVED,
        started_at: wish.now,
        expires_at: wish.now.after(wish.rules.reservation_ttl),
        bytes_up: 0,
        bytes_down: 0,
        lease_bytes: i64::try_from(lent.unwrap_or(0)).unwrap_or(i64::MAX),
        lease_period: Some(grant.plan.period(&grant.subscription, wish.now, &wish.rules.calendar).start),
        silent: false,
    };
    let written: QueryResult<(usize, usize, Vec<OutlineNode>)> = together!(conn =>
        Prepared(diesel::insert_into(sessions::table).values(row)).execute(conn),
        seen!(conn, wish.device, news(wish, &grant.device)),
        place!(first.id).load(conn),
    );
    let (_, _, mut taken) = written?;
    let node = if let Some(node) = taken.pop() {
        node
    } else {
        let node = take(conn, others).await?;
        let change = sessions::outline_node_id.eq(node.id);
        diesel::update(sessions::table.find(session)).set(change).execute(conn).await?;
        node
    };
    let alternates = alternates(node.id);
    Ok(((node, alternates), lent))
}

/// Takes a place on the first of the nodes that has one.
async fn take(conn: &mut Conn, order: &[Candidate]) -> Result<OutlineNode, Refusal> {
    for node in order {
        if let Some(node) = place!(node.id).load(conn).await?.pop() {
            return Ok(node);
        }
    }
    Err(Refusal::Code(SessionCode::NoNodeAvailable))
}

/// Gives a session that is there already another node; what it holds of its lease stays.
async fn rebook(
    conn: &mut Conn,
    wish: &Wish,
    grant: &Grant,
    held: &Session,
    order: &[Candidate],
) -> Result<(OutlineNode, Option<u64>), Refusal> {
    if held.device_id != wish.device || held.gateway_node_id != wish.gateway.id {
        return Err(Refusal::SessionTaken);
    }
    if [state::KILLED, state::ENDED].contains(&held.state.as_str()) {
        return Err(Refusal::Code(SessionCode::SessionKilled));
    }
    let is_live = state::LIVE.contains(&held.state.as_str());
    if let Some(old) = held.outline_node_id.filter(|_| is_live) {
        lock_nodes(conn).await?;
        diesel::update(outline_nodes::table.find(old))
            .set(outline_nodes::active_sessions.eq(outline_nodes::active_sessions - 1))
            .execute(conn)
            .await?;
    }
    let node = take(conn, order).await?;
    let allowed = match grant.limit {
        Some(_) if held.lease_period.is_some() && wish.now < held.expires_at => Some(held.lease_bytes),
        Some(_) => Some(held.bytes_up.saturating_add(held.bytes_down)),
        None => None,
    };
    let state = if is_live { held.state.as_str() } else { state::RESERVED };
    let change = (
        sessions::outline_node_id.eq(node.id),
        sessions::state.eq(state),
        sessions::ended_at.eq(None::<Time>),
        sessions::expires_at.eq(held.expires_at.max(wish.now.after(wish.rules.reservation_ttl))),
        sessions::lease_bytes.eq(allowed.unwrap_or(0)),
    );
    diesel::update(sessions::table.find(held.id)).set(change).execute(conn).await?;
    seen!(conn, wish.device, news(wish, &grant.device)).await?;
    Ok((node, allowed.map(i64::unsigned_abs)))
}
