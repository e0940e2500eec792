use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Conn, events, lock_nodes, lock_sessions, lock_user_lightly, locked_session, session};
use crate::api::EventKind;
use crate::control::admission::{Admission, Facts, Grant, Live, Refusal, Wish, choose};
use crate::control::db::schema::{
    devices, gateway_exit_regions, gateway_nodes, outline_nodes, plan_regions, plans, regions, sessions, subscriptions,
    usage_periods, users,
};
use crate::control::db::types::{Id, Time};
use crate::control::events::Emit;
use crate::control::lease::Balance;
use crate::control::models::{Device, Gateway, NewSession, OutlineNode, Plan, Region, Subscription, User, state};
use crate::frame::SessionCode;

/// Used, bought, older devices, other sessions, regions of the plan, the wished one among them.
type Counts = (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>);

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
        if wish.session.is_some() {
            lock_user_lightly(conn, wish.user).await?;
        }
        let facts = facts(conn, &wish).await?;
        let region = wish.region_id().filter(|_| facts.region_allowed);
        let grant = facts.judge(&wish)?;
        let region = region.ok_or(Refusal::Code(SessionCode::UnknownRegion))?;
        seen(conn, &wish).await?;
        let Some(session) = wish.session else {
            return Ok(Admission { grant, assigned: None, allowed: None, told: None });
        };
        if !grant.replaces.is_empty() {
            let mut locked = grant.replaces.clone();
            locked.push(session);
            locked.sort_unstable();
            lock_sessions(conn, &locked).await?;
            lock_nodes(conn).await?;
            for replaced in &grant.replaces {
                session::end(conn, *replaced, wish.now).await?;
            }
        }
        let (assigned, allowed) = reserve(conn, &wish, &grant, session, region).await?;
        let mut told = None;
        for replaced in &grant.replaces {
            let stop = Emit::stopped(EventKind::SessionStopped, *replaced, SessionCode::SessionKilled);
            told = Some(events::emit(conn, stop, wish.now).await?);
        }
        Ok(Admission { grant, assigned: Some(assigned), allowed, told })
    })
    .await
}

async fn facts(conn: &mut Conn, wish: &Wish) -> QueryResult<Facts> {
    let found: Option<(Device, User)> = devices::table
        .inner_join(users::table.on(users::id.eq(devices::user_id)))
        .filter(devices::id.eq(wish.device))
        .select((Device::as_select(), User::as_select()))
        .first(conn)
        .await
        .optional()?;
    let Some((device, user)) = found else { return Ok(Facts::default()) };
    let Some((subscription, plan)) = subscription(conn, user.id, wish.now).await? else {
        return Ok(Facts { device: Some((device, user)), ..Facts::default() });
    };
    let start = plan.period(&subscription, wish.now, &wish.rules.calendar).start;
    let period = usage_periods::table.find((subscription.id, start));
    let older = devices::created_at
        .lt(device.created_at)
        .or(devices::created_at.eq(device.created_at).and(devices::id.lt(device.id)));
    let older = devices::table.filter(devices::user_id.eq(user.id).and(devices::status.eq("active")).and(older));
    let others = sessions::table
        .filter(sessions::device_id.eq(device.id).and(sessions::id.ne(wish.session.unwrap_or(device.id))))
        .filter(sessions::state.eq_any(state::LIVE).and(sessions::expires_at.gt(wish.now)));
    let limits = plan_regions::table.filter(plan_regions::plan_id.eq(plan.id));
    let wished = plan_regions::region_id.eq(wish.region_id().unwrap_or(device.id));
    let (used, bonus, older, others, limits, listed): Counts = diesel::select((
        period.select(usage_periods::bytes_up + usage_periods::bytes_down).single_value(),
        period.select(usage_periods::bonus_bytes).single_value(),
        older.count().single_value(),
        others.count().single_value(),
        limits.count().single_value(),
        plan_regions::table.filter(plan_regions::plan_id.eq(plan.id).and(wished)).count().single_value(),
    ))
    .get_result(conn)
    .await?;
    let crowded = plan.max_sessions.is_some_and(|max| others.unwrap_or(0) >= i64::from(max));
    Ok(Facts {
        used: used.unwrap_or(0).unsigned_abs(),
        bonus: bonus.unwrap_or(0).unsigned_abs(),
        older_devices: older.unwrap_or(0),
        live_sessions: if crowded { live_sessions(conn, wish).await? } else { Vec::new() },
        region_allowed: limits == Some(0) || listed != Some(0),
        device: Some((device, user)),
        subscription: Some((subscription, plan)),
    })
}

async fn live_sessions(conn: &mut Conn, wish: &Wish) -> QueryResult<Vec<Live>> {
    let mut live = sessions::table
        .inner_join(gateway_nodes::table.on(gateway_nodes::id.eq(sessions::gateway_node_id)))
        .filter(sessions::device_id.eq(wish.device))
        .filter(sessions::state.eq_any(state::LIVE).and(sessions::expires_at.gt(wish.now)))
        .into_boxed();
    if let Some(session) = wish.session {
        live = live.filter(sessions::id.ne(session));
    }
    let rows: Vec<(Id, bool, bool, String)> = live
        .select((sessions::id, sessions::silent, gateway_nodes::draining, gateway_nodes::status))
        .order(sessions::started_at)
        .load(conn)
        .await?;
    let fading = |silent, draining, status: &str| silent || draining || status == "offline";
    let live = rows.into_iter().map(|(session, silent, draining, status)| {
        let fading = fading(silent, draining, &status);
        Live { session, fading }
    });
    Ok(live.collect())
}

/// The subscription that serves and ends last, else the one that ended last.
pub(crate) async fn subscription(conn: &mut Conn, user: Id, now: Time) -> QueryResult<Option<(Subscription, Plan)>> {
    let mut all: Vec<(Subscription, Plan)> = subscriptions::table
        .inner_join(plans::table.on(plans::id.eq(subscriptions::plan_id)))
        .filter(subscriptions::user_id.eq(user))
        .select((Subscription::as_select(), Plan::as_select()))
        .order(subscriptions::valid_until.desc())
        .limit(20)
        .load(conn)
        .await?;
    let at = all.iter().position(|(subscription, plan)| subscription.serves(plan, now)).unwrap_or(0);
    Ok(if all.is_empty() { None } else { Some(all.swap_remove(at)) })
}

/// Lends a new session its first bytes, under the lock of the period's row.
async fn lend(conn: &mut Conn, wish: &Wish, grant: &Grant, period: Time) -> QueryResult<Option<u64>> {
    let Some(limit) = grant.limit else { return Ok(None) };
    let subscription = grant.subscription.id;
    let (up, down): (i64, i64) = diesel::insert_into(usage_periods::table)
        .values((
            usage_periods::subscription_id.eq(subscription),
            usage_periods::period_start.eq(period),
            usage_periods::bytes_up.eq(0),
            usage_periods::bytes_down.eq(0),
            usage_periods::bonus_bytes.eq(0),
        ))
        .on_conflict((usage_periods::subscription_id, usage_periods::period_start))
        .do_update()
        .set(usage_periods::bytes_up.eq(usage_periods::bytes_up))
        .returning((usage_periods::bytes_up, usage_periods::bytes_down))
        .get_result(conn)
        .await?;
    let held: Vec<(i64, i64, i64)> = sessions::table
        .filter(sessions::subscription_id.eq(subscription).and(sessions::lease_period.eq(period)))
        .filter(sessions::state.eq_any(state::HOLDING).and(sessions::expires_at.gt(wish.now)))
        .select((sessions::lease_bytes, sessions::bytes_up, sessions::bytes_down))
        .load(conn)
        .await?;
    let unused = |(lease, up, down): (i64, i64, i64)| lease.saturating_sub(up.saturating_add(down)).max(0);
    let lent = held.into_iter().map(unused).fold(0, i64::saturating_add).unsigned_abs();
    let used = up.saturating_add(down).unsigned_abs();
    Ok(Some(Balance { limit, used, lent }.lend(0, true, &wish.rules)))
}

async fn seen(conn: &mut Conn, wish: &Wish) -> QueryResult<()> {
    let device = diesel::update(devices::table.find(wish.device));
    match &wish.client_version {
        Some(version) => {
            let change = (devices::last_seen_at.eq(wish.now), devices::client_version.eq(version));
            device.set(change).execute(conn).await?
        }
        None => device.set(devices::last_seen_at.eq(wish.now)).execute(conn).await?,
    };
    Ok(())
}

async fn reserve(
    conn: &mut Conn,
    wish: &Wish,
    grant: &Grant,
    session: Id,
    region: Id,
) -> Result<((OutlineNode, Vec<Id>), Option<u64>), Refusal> {
    let held = locked_session(conn, session).await?;
    if let Some(held) = &held {
        if held.device_id != wish.device || held.gateway_node_id != wish.gateway.id {
            return Err(Refusal::SessionTaken);
        }
        if [state::KILLED, state::ENDED].contains(&held.state.as_str()) {
            return Err(Refusal::Code(SessionCode::SessionKilled));
        }
    }
    let freed =
        held.as_ref().filter(|held| state::LIVE.contains(&held.state.as_str())).and_then(|held| held.outline_node_id);
    if let Some(old) = freed {
        lock_nodes(conn).await?;
        diesel::update(outline_nodes::table.find(old))
            .set(outline_nodes::active_sessions.eq(outline_nodes::active_sessions - 1))
            .execute(conn)
            .await?;
    }
    let candidates: Vec<OutlineNode> = outline_nodes::table
        .filter(outline_nodes::region_id.eq(region).and(outline_nodes::state.eq("active")))
        .filter(outline_nodes::health_status.eq_any(["healthy", "unknown"]))
        .filter(outline_nodes::active_sessions.lt(outline_nodes::max_sessions))
        .filter(outline_nodes::id.ne_all(wish.exclude.clone()))
        .select(OutlineNode::as_select())
        .load(conn)
        .await?;
    let order = choose(candidates, wish.random);
    let mut chosen = None;
    for node in &order {
        let taken = outline_nodes::table
            .filter(outline_nodes::id.eq(node.id))
            .filter(outline_nodes::active_sessions.lt(outline_nodes::max_sessions));
        let taken = diesel::update(taken)
            .set(outline_nodes::active_sessions.eq(outline_nodes::active_sessions + 1))
            .execute(conn)
            .await?;
        if taken == 1 {
            chosen = Some(node.clone());
            break;
        }
    }
    let Some(node) = chosen else { return Err(Refusal::Code(SessionCode::NoNodeAvailable)) };
    let alternates = order.iter().map(|other| other.id).filter(|id| *id != node.id).collect();
    let expires_at = wish.now.after(wish.rules.reservation_ttl);
    if let Some(held) = held {
        let allowed = match grant.limit {
            Some(_) if held.lease_period.is_some() && wish.now < held.expires_at => Some(held.lease_bytes),
            Some(_) => Some(held.bytes_up.saturating_add(held.bytes_down)),
            None => None,
        };
        let is_live = state::LIVE.contains(&held.state.as_str());
        let state = if is_live { held.state.clone() } else { state::RESERVED.to_owned() };
        let change = (
            sessions::outline_node_id.eq(node.id),
            sessions::state.eq(state),
            sessions::ended_at.eq(None::<Time>),
            sessions::expires_at.eq(held.expires_at.max(expires_at)),
            sessions::lease_bytes.eq(allowed.unwrap_or(0)),
        );
        diesel::update(sessions::table.find(session)).set(change).execute(conn).await?;
        Ok(((node, alternates), allowed.map(i64::unsigned_abs)))
    } else {
        let period = grant.plan.period(&grant.subscription, wish.now, &wish.rules.calendar).start;
        let lent = lend(conn, wish, grant, period).await?;
        let row = NewSession {
            id: session,
            user_id: grant.user.id,
            device_id: wish.device,
            subscription_id: Some(grant.subscription.id),
            gateway_node_id: wish.gateway.id,
            outline_node_id: Some(node.id),
            state: state::RESERVED,
            started_at: wish.now,
            expires_at,
            bytes_up: 0,
            bytes_down: 0,
            lease_bytes: i64::try_from(lent.unwrap_or(0)).unwrap_or(i64::MAX),
            lease_period: Some(period),
            silent: false,
        };
        diesel::insert_into(sessions::table).values(row).execute(conn).await?;
        Ok(((node, alternates), lent))
    }
}
