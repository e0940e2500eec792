use std::collections::{BTreeMap, BTreeSet, HashMap};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};
use diesel_async::RunQueryDsl;

use super::period::added;
use super::{Conn, admission, lock_nodes, lock_sessions};
use crate::control::db::prepared::places;
use crate::control::domain::accounting::{Batch, Ledger, Outcome, Owner, RegionIndex, SessionUpdate, Spent};
use crate::control::model::id::{DeviceId, NodeId, PlanId, RegionId, SessionId, SubscriptionId, UserId};
use crate::control::model::schema::{
    devices, outline_nodes, plan_regions, plans, session_tombstones, sessions, subscriptions, usage_periods, users,
};
use crate::control::model::state::{DeviceStatus, SessionState, SubscriptionStatus, UserStatus};
use crate::control::model::types::{SqlTime, SqlUuid, Time};
use crate::control::model::{NewSession, Plan, Session, Subscription, holding};

/// Takes a batch of cumulative counters and charges the differences, all or nothing.
pub(crate) async fn report(conn: &mut Conn, batch: &Batch) -> QueryResult<Vec<Outcome>> {
    transaction!(conn, async |conn: &mut Conn| {
        let ids = batch.session_ids();
        lock_sessions(conn, &ids).await?;
        let mut known = load(conn, &ids).await?;
        let unknown_sessions = batch.unknown_sessions(&known);
        if !unknown_sessions.is_empty() {
            known.extend(insert_unknown(conn, batch, &unknown_sessions).await?);
        }
        let missing: Vec<SessionId> = ids.iter().copied().filter(|id| !known.contains_key(id)).collect();
        let tombstoned = tombstoned(conn, &missing).await?;
        let owners = owners(conn, &known).await?;
        let mut plans = paid_by(conn, &known).await?;
        renew(conn, batch, &mut known, &mut plans).await?;
        let region_index = region_index(conn, &known, &plans).await?;
        let mut ledger = Ledger::new(batch, known, owners, plans, region_index, tombstoned);
        ledger.charge();
        let accounts = ledger.accounts();
        for account in &accounts {
            ledger.periods.entry(*account).or_default();
        }
        write_periods(conn, &ledger.periods).await?;
        let spent = spent(conn, &accounts, &ids, batch.now).await?;
        write_nodes(conn, &ledger.nodes).await?;
        let outcomes = ledger.settle(&spent);
        write_sessions(conn, batch, &ledger.charged).await?;
        Ok(outcomes)
    })
    .await
}

async fn load(conn: &mut Conn, ids: &[SessionId]) -> QueryResult<HashMap<SessionId, Session>> {
    let rows: Vec<Session> =
        sessions::table.filter(sessions::id.eq_any(ids)).select(Session::as_select()).load(conn).await?;
    Ok(rows.into_iter().map(|session| (session.id, session)).collect())
}

/// Makes rows for sessions that started while the control plane was away; their token was checked.
async fn insert_unknown(
    conn: &mut Conn,
    batch: &Batch,
    unknown_sessions: &[(SessionId, DeviceId, Time)],
) -> QueryResult<HashMap<SessionId, Session>> {
    let tombstoned =
        tombstoned(conn, &unknown_sessions.iter().map(|(session, ..)| *session).collect::<Vec<_>>()).await?;
    let ids: Vec<DeviceId> = unknown_sessions.iter().map(|(_, device, _)| *device).collect();
    let users: HashMap<DeviceId, UserId> = devices::table
        .filter(devices::id.eq_any(ids))
        .select((devices::id, devices::user_id))
        .load::<(DeviceId, UserId)>(conn)
        .await?
        .into_iter()
        .collect();
    let mut adopted = Vec::new();
    let owned: Vec<UserId> = users.values().copied().collect();
    let paid: Vec<(UserId, SubscriptionId, Time)> = subscriptions::table
        .filter(subscriptions::user_id.eq_any(owned).and(subscriptions::status.eq(SubscriptionStatus::Active)))
        .select((subscriptions::user_id, subscriptions::id, subscriptions::starts_at))
        .order(subscriptions::valid_until.desc())
        .load(conn)
        .await?;
    for (session, device, started_at) in unknown_sessions {
        let Some(user) = users.get(device).filter(|_| !tombstoned.contains(session)) else { continue };
        let subscription = paid.iter().find(|(owner, _, starts_at)| owner == user && starts_at <= started_at);
        adopted.push(NewSession {
            id: *session,
            user_id: *user,
            device_id: *device,
            subscription_id: subscription.map(|(_, id, _)| *id),
            gateway_node_id: batch.gateway,
            outline_node_id: None,
            state: SessionState::Reserved,
            started_at: *started_at,
            expires_at: batch.now,
            bytes_up: 0,
            bytes_down: 0,
            lease_bytes: 0,
            lease_period: None,
            silent: false,
        });
    }
    let ids: Vec<SessionId> = adopted.iter().map(|row| row.id).collect();
    for row in adopted {
        diesel::insert_into(sessions::table).values(row).on_conflict_do_nothing().execute(conn).await?;
    }
    load(conn, &ids).await
}

async fn tombstoned(conn: &mut Conn, ids: &[SessionId]) -> QueryResult<Vec<SessionId>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = session_tombstones::table.filter(session_tombstones::id.eq_any(ids));
    found.select(session_tombstones::id).load(conn).await
}

async fn owners(conn: &mut Conn, known: &HashMap<SessionId, Session>) -> QueryResult<HashMap<DeviceId, Owner>> {
    let ids: Vec<DeviceId> = known.values().map(|session| session.device_id).collect();
    let rows: Vec<(DeviceId, DeviceStatus, UserStatus)> = devices::table
        .inner_join(users::table.on(users::id.eq(devices::user_id)))
        .filter(devices::id.eq_any(ids))
        .select((devices::id, devices::status, users::status))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|(id, device, user)| (id, Owner { device, user })).collect())
}

async fn paid_by(
    conn: &mut Conn,
    known: &HashMap<SessionId, Session>,
) -> QueryResult<HashMap<SubscriptionId, (Subscription, Plan)>> {
    let ids: Vec<SubscriptionId> = known.values().filter_map(|session| session.subscription_id).collect();
    let rows: Vec<(Subscription, Plan)> = subscriptions::table
        .inner_join(plans::table.on(plans::id.eq(subscriptions::plan_id)))
        .filter(subscriptions::id.eq_any(ids))
        .select((Subscription::as_select(), Plan::as_select()))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|(subscription, plan)| (subscription.id, (subscription, plan))).collect())
}

/// Where plans let sessions go through, and where their nodes are; the nodes only if a plan is limited.
async fn region_index(
    conn: &mut Conn,
    known: &HashMap<SessionId, Session>,
    paid: &HashMap<SubscriptionId, (Subscription, Plan)>,
) -> QueryResult<RegionIndex> {
    let ids: BTreeSet<PlanId> = paid.values().map(|(_, plan)| plan.id).collect();
    let mut plans: HashMap<PlanId, Vec<RegionId>> = HashMap::new();
    let limits: Vec<(PlanId, RegionId)> = plan_regions::table
        .filter(plan_regions::plan_id.eq_any(ids))
        .select((plan_regions::plan_id, plan_regions::region_id))
        .load(conn)
        .await?;
    for (plan, region) in limits {
        plans.entry(plan).or_default().push(region);
    }
    if plans.is_empty() {
        return Ok(RegionIndex::default());
    }
    let ids: BTreeSet<NodeId> = known.values().filter_map(|session| session.outline_node_id).collect();
    let nodes: Vec<(NodeId, RegionId)> = outline_nodes::table
        .filter(outline_nodes::id.eq_any(ids))
        .select((outline_nodes::id, outline_nodes::region_id))
        .load(conn)
        .await?;
    Ok(RegionIndex { plans, nodes: nodes.into_iter().collect() })
}

/// Moves sessions whose subscription has lapsed to one that their user has by now.
async fn renew(
    conn: &mut Conn,
    batch: &Batch,
    known: &mut HashMap<SessionId, Session>,
    plans: &mut HashMap<SubscriptionId, (Subscription, Plan)>,
) -> QueryResult<()> {
    let now = batch.now;
    let mut lapsed: BTreeMap<UserId, Vec<SessionId>> = BTreeMap::new();
    for session in known.values().filter(|session| batch.goes_on(session)) {
        let paid = session.subscription_id.and_then(|id| plans.get(&id));
        if !paid.is_some_and(|(subscription, plan)| subscription.serves(plan, now)) {
            lapsed.entry(session.user_id).or_default().push(session.id);
        }
    }
    for (user, ids) in lapsed {
        let found = admission::subscription(conn, user, now).await?;
        let Some((subscription, plan)) = found.filter(|(subscription, plan)| subscription.serves(plan, now)) else {
            continue;
        };
        diesel::update(sessions::table.filter(sessions::id.eq_any(&ids)))
            .set(sessions::subscription_id.eq(subscription.id))
            .execute(conn)
            .await?;
        for id in ids {
            if let Some(session) = known.get_mut(&id) {
                session.subscription_id = Some(subscription.id);
                session.lease_period = None;
                session.lease_bytes = 0;
            }
        }
        plans.insert(subscription.id, (subscription, plan));
    }
    Ok(())
}

async fn write_sessions(conn: &mut Conn, batch: &Batch, charged: &[SessionUpdate]) -> QueryResult<()> {
    if charged.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "UPDATE sessions SET last_report_at = v.column6, expires_at = v.column7, bytes_up = v.column2, \
         bytes_down = v.column3, state = v.column4, ended_at = v.column5, lease_bytes = v.column8, \
         lease_period = v.column9, silent = v.column10 \
         FROM (VALUES {}) AS v WHERE sessions.id = v.column1",
        places(charged.len(), 10),
    );
    let mut query = diesel::sql_query(sql).into_boxed();
    for row in charged {
        query = query
            .bind::<SqlUuid, _>(row.session)
            .bind::<BigInt, _>(row.bytes_up)
            .bind::<BigInt, _>(row.bytes_down)
            .bind::<Text, _>(row.state)
            .bind::<Nullable<SqlTime>, _>(row.ended_at)
            .bind::<SqlTime, _>(batch.now)
            .bind::<SqlTime, _>(batch.expires_at)
            .bind::<BigInt, _>(row.lease_bytes)
            .bind::<Nullable<SqlTime>, _>(row.lease_period)
            .bind::<Bool, _>(row.silent);
    }
    query.execute(conn).await?;
    Ok(())
}

async fn write_periods(conn: &mut Conn, periods: &BTreeMap<(SubscriptionId, Time), (i64, i64)>) -> QueryResult<()> {
    if periods.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "INSERT INTO usage_periods (subscription_id, period_start, bytes_up, bytes_down) VALUES {} \
         ON CONFLICT (subscription_id, period_start) DO UPDATE SET \
         bytes_up = {}, bytes_down = {}",
        places(periods.len(), 4),
        added("bytes_up"),
        added("bytes_down"),
    );
    let mut query = diesel::sql_query(sql).into_boxed();
    for ((subscription, start), (up, down)) in periods {
        query = query
            .bind::<SqlUuid, _>(*subscription)
            .bind::<SqlTime, _>(*start)
            .bind::<BigInt, _>(*up)
            .bind::<BigInt, _>(*down);
    }
    query.execute(conn).await?;
    Ok(())
}

async fn write_nodes(conn: &mut Conn, nodes: &BTreeMap<NodeId, i32>) -> QueryResult<()> {
    if nodes.is_empty() {
        return Ok(());
    }
    if nodes.len() > 1 {
        lock_nodes(conn).await?;
    }
    let sql = format!(
        "UPDATE outline_nodes SET active_sessions = active_sessions + v.column2 FROM (VALUES {}) AS v \
         WHERE outline_nodes.id = v.column1",
        places(nodes.len(), 2),
    );
    let mut query = diesel::sql_query(sql).into_boxed();
    for (node, change) in nodes {
        query = query.bind::<SqlUuid, _>(*node).bind::<Integer, _>(*change);
    }
    query.execute(conn).await?;
    Ok(())
}

/// A session, what pays for it in which period, its lease, bytes up and down.
type OpenLease = (SessionId, Option<SubscriptionId>, Option<Time>, i64, i64, i64);

/// What each account has used and lent to sessions beyond the batch. Its rows were written before, so they are locked.
async fn spent(
    conn: &mut Conn,
    accounts: &[(SubscriptionId, Time)],
    batch: &[SessionId],
    now: Time,
) -> QueryResult<HashMap<(SubscriptionId, Time), Spent>> {
    if accounts.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<SubscriptionId> = accounts.iter().map(|(subscription, _)| *subscription).collect();
    let starts: Vec<Time> = accounts.iter().map(|(_, start)| *start).collect::<BTreeSet<_>>().into_iter().collect();
    let rows: Vec<(SubscriptionId, Time, i64, i64, i64)> = usage_periods::table
        .filter(usage_periods::subscription_id.eq_any(&ids).and(usage_periods::period_start.eq_any(starts)))
        .select((
            usage_periods::subscription_id,
            usage_periods::period_start,
            usage_periods::bytes_up,
            usage_periods::bytes_down,
            usage_periods::bonus_bytes,
        ))
        .load(conn)
        .await?;
    let total = |up: i64, down: i64| up.unsigned_abs().saturating_add(down.unsigned_abs());
    let mut spent: HashMap<(SubscriptionId, Time), Spent> = rows
        .into_iter()
        .map(|(id, start, up, down, bonus)| {
            ((id, start), Spent { used: total(up, down), bonus: bonus.unsigned_abs(), lent: 0 })
        })
        .collect();
    let lent: Vec<OpenLease> = sessions::table
        .filter(sessions::subscription_id.eq_any(ids.iter().copied().map(Some)))
        .filter(holding().and(sessions::expires_at.gt(now)))
        .select((
            sessions::id,
            sessions::subscription_id,
            sessions::lease_period,
            sessions::lease_bytes,
            sessions::bytes_up,
            sessions::bytes_down,
        ))
        .load(conn)
        .await?;
    for (session, subscription, period, lease, up, down) in lent {
        let account = subscription.zip(period).and_then(|account| spent.get_mut(&account));
        if let Some(account) = account
            && batch.binary_search(&session).is_err()
        {
            account.lent = account.lent.saturating_add(lease.unsigned_abs().saturating_sub(total(up, down)));
        }
    }
    Ok(spent)
}
