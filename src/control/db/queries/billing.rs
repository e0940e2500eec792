use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use super::{Conn, admin, events, lock_user, period};
use crate::control::db::Rejected;
use crate::control::domain::billing::{AffectedSessions, BillingError, Change, Changed, Effect, Quota, Traffic};
use crate::control::model::NewEvent;
use crate::control::model::calendar::{Calendar, days};
use crate::control::model::id::{NodeId, PlanId, RegionId, SubscriptionId, UserId};
use crate::control::model::revision::Expected;
use crate::control::model::schema::{
    devices, outline_nodes, payments, plan_regions, plans, regions, sessions, subscriptions,
};
use crate::control::model::state::{DeviceStatus, PeriodKind, SubscriptionStatus};
use crate::control::model::types::{SqlTime, SqlUuid, Time};
use crate::control::model::{
    Payment, Plan, PlanChange, Subscription, SubscriptionAndPlan, SubscriptionChange, Written, live,
};

/// The regions of some codes, with these.
pub(crate) async fn regions_by_code(conn: &mut Conn, codes: &[String]) -> QueryResult<Vec<(RegionId, String)>> {
    regions::table.filter(regions::code.eq_any(codes)).select((regions::id, regions::code)).load(conn).await
}

/// Codes of the regions that plans are limited to.
pub(crate) async fn allowed_regions(conn: &mut Conn, of: &[PlanId]) -> QueryResult<HashMap<PlanId, Vec<String>>> {
    let rows: Vec<(PlanId, String)> = plan_regions::table
        .inner_join(regions::table.on(regions::id.eq(plan_regions::region_id)))
        .filter(plan_regions::plan_id.eq_any(of))
        .select((plan_regions::plan_id, regions::code))
        .order(regions::code)
        .load(conn)
        .await?;
    let mut codes: HashMap<PlanId, Vec<String>> = HashMap::new();
    for (plan, code) in rows {
        codes.entry(plan).or_default().push(code);
    }
    Ok(codes)
}

/// Makes a plan with the regions it is limited to.
pub(crate) async fn create_plan(conn: &mut Conn, row: &Plan, allowed: &[RegionId]) -> QueryResult<()> {
    transaction!(conn, async |conn: &mut Conn| {
        diesel::insert_into(plans::table).values(row).execute(conn).await?;
        limit_regions(conn, row.id, allowed).await
    })
    .await
}

/// Changes a plan and, if given, the regions it is limited to; gives the event's number.
pub(crate) async fn update_plan(
    conn: &mut Conn,
    id: PlanId,
    change: &PlanChange,
    expected: &Expected,
    allowed: Option<&[RegionId]>,
    now: Time,
) -> Result<Written<Plan>, Rejected<BillingError>> {
    transaction!(conn, async |conn: &mut Conn| {
        let row = admin::plan::update(conn, id, change, expected).await?;
        if (row.period == PeriodKind::Days) != row.period_days.is_some() {
            return Err(BillingError::PeriodDays.into());
        }
        if let Some(allowed) = allowed {
            limit_regions(conn, id, allowed).await?;
        }
        let seq = events::emit(conn, NewEvent::PlanChanged(id), now).await?;
        Ok(Written { row, event_seq: Some(seq) })
    })
    .await
}

async fn limit_regions(conn: &mut Conn, plan: PlanId, allowed: &[RegionId]) -> QueryResult<()> {
    diesel::delete(plan_regions::table.filter(plan_regions::plan_id.eq(plan))).execute(conn).await?;
    regions::table
        .filter(regions::id.eq_any(allowed))
        .select((regions::id, plan.into_sql::<SqlUuid>()))
        .insert_into(plan_regions::table)
        .into_columns((plan_regions::region_id, plan_regions::plan_id))
        .execute(conn)
        .await?;
    Ok(())
}

/// A subscription and its plan.
pub(crate) async fn subscription(conn: &mut Conn, id: SubscriptionId) -> QueryResult<SubscriptionAndPlan> {
    subscriptions::table
        .inner_join(plans::table.on(plans::id.eq(subscriptions::plan_id)))
        .filter(subscriptions::id.eq(id))
        .select((Subscription::as_select(), Plan::as_select()))
        .first::<(Subscription, Plan)>(conn)
        .await
        .map(SubscriptionAndPlan::from)
}

/// Makes a subscription.
pub(crate) async fn subscribe(conn: &mut Conn, row: &Subscription) -> QueryResult<Changed> {
    transaction!(conn, async |conn: &mut Conn| {
        lock_user(conn, row.user_id).await?;
        diesel::insert_into(subscriptions::table).values(row).execute(conn).await?;
        announced(conn, row.id, row.created_at).await
    })
    .await
}

/// Changes a subscription as an administrator says.
pub(crate) async fn amend(
    conn: &mut Conn,
    id: SubscriptionId,
    change: &SubscriptionChange,
    expected: &Expected,
    now: Time,
) -> QueryResult<Changed> {
    transaction!(conn, async |conn: &mut Conn| {
        locked(conn, id).await?;
        let row = admin::subscription::update(conn, id, change, expected).await?;
        let cancelled_at = (row.status == SubscriptionStatus::Cancelled).then_some(row.cancelled_at.unwrap_or(now));
        if row.cancelled_at != cancelled_at {
            diesel::update(subscriptions::table.find(id))
                .set(subscriptions::cancelled_at.eq(cancelled_at))
                .execute(conn)
                .await?;
        }
        announced(conn, id, now).await
    })
    .await
}

/// Prolongs a subscription by a payment's days, once; a plan whose period is the whole term gives its traffic once more.
pub(crate) async fn renew(conn: &mut Conn, payment: &Payment) -> Result<Changed, Rejected<BillingError>> {
    transaction!(conn, async |conn: &mut Conn| {
        let SubscriptionAndPlan { subscription: held, plan } = locked(conn, payment.subscription_id).await?;
        if !is_new(conn, payment).await? {
            return Ok(Changed { subscription: held, plan, seq: None });
        }
        if held.status == SubscriptionStatus::Cancelled {
            return Err(BillingError::Cancelled.into());
        }
        let now = payment.created_at;
        let until = held.valid_until.max(now).after(days(payment.days.unsigned_abs()));
        diesel::update(subscriptions::table.find(held.id))
            .set((
                subscriptions::status.eq(SubscriptionStatus::Active),
                subscriptions::valid_until.eq(until),
                subscriptions::revision.eq(subscriptions::revision + 1),
            ))
            .execute(conn)
            .await?;
        if let (PeriodKind::Term, Some(limit)) = (plan.period, plan.limit_bytes()) {
            let bytes = i64::try_from(limit).unwrap_or(i64::MAX);
            add_bonus(conn, held.id, held.starts_at, bytes).await?;
        }
        Ok(announced(conn, held.id, now).await?)
    })
    .await
}

async fn add_bonus(conn: &mut Conn, subscription: SubscriptionId, period_start: Time, bytes: i64) -> QueryResult<()> {
    let sql = format!(
        "INSERT INTO usage_periods (subscription_id, period_start, bytes_up, bytes_down, bonus_bytes) \
         VALUES ($1, $2, 0, 0, $3) ON CONFLICT (subscription_id, period_start) DO UPDATE SET bonus_bytes = {}",
        period::added("bonus_bytes"),
    );
    diesel::sql_query(sql)
        .bind::<SqlUuid, _>(subscription)
        .bind::<SqlTime, _>(period_start)
        .bind::<BigInt, _>(bytes)
        .execute(conn)
        .await
        .map(|_| ())
}

/// Adds a payment's bytes to the current period, once.
pub(crate) async fn top_up(
    conn: &mut Conn,
    payment: &Payment,
    calendar: &Calendar,
) -> Result<(Changed, Quota), Rejected<BillingError>> {
    transaction!(conn, async |conn: &mut Conn| {
        let SubscriptionAndPlan { subscription: held, plan } = locked(conn, payment.subscription_id).await?;
        let now = payment.created_at;
        if !is_new(conn, payment).await? {
            let quota = quota(conn, &held, &plan, calendar, now).await?;
            return Ok((Changed { subscription: held, plan, seq: None }, quota));
        }
        if held.status == SubscriptionStatus::Cancelled {
            return Err(BillingError::Cancelled.into());
        }
        if !held.serves(&plan, now) {
            return Err(BillingError::NotServed.into());
        }
        let start = plan.period(&held, now, calendar).start;
        add_bonus(conn, held.id, start, payment.bytes).await?;
        let quota = quota(conn, &held, &plan, calendar, now).await?;
        Ok((announced(conn, held.id, now).await?, quota))
    })
    .await
}

/// Ends a subscription for good; gives how many sessions end with it.
pub(crate) async fn cancel(conn: &mut Conn, id: SubscriptionId, now: Time) -> QueryResult<(Changed, i64)> {
    transaction!(conn, async |conn: &mut Conn| {
        let SubscriptionAndPlan { subscription: held, plan } = locked(conn, id).await?;
        if held.status == SubscriptionStatus::Cancelled {
            let ended = ended_at(conn, &held, held.cancelled_at.unwrap_or(now)).await?;
            return Ok((Changed { subscription: held, plan, seq: None }, ended));
        }
        let ended = ended_at(conn, &held, now).await?;
        diesel::update(subscriptions::table.find(id))
            .set((
                subscriptions::status.eq(SubscriptionStatus::Cancelled),
                subscriptions::cancelled_at.eq(now),
                subscriptions::revision.eq(subscriptions::revision + 1),
            ))
            .execute(conn)
            .await?;
        Ok((announced(conn, id, now).await?, ended))
    })
    .await
}

/// Moves a subscription to another plan, or says what that would do.
pub(crate) async fn change_plan(
    conn: &mut Conn,
    id: SubscriptionId,
    to: PlanId,
    dry_run: bool,
    calendar: &Calendar,
    now: Time,
) -> Result<(Changed, Effect), Rejected<BillingError>> {
    transaction!(conn, async |conn: &mut Conn| {
        let SubscriptionAndPlan { subscription: held, plan } = locked(conn, id).await?;
        if held.status == SubscriptionStatus::Cancelled {
            return Err(BillingError::Cancelled.into());
        }
        let next: Option<Plan> = plans::table.find(to).select(Plan::as_select()).first(conn).await.optional()?;
        let Some(next) = next else { return Err(BillingError::UnknownPlan.into()) };
        let quotas = Change {
            from: quota(conn, &held, &plan, calendar, now).await?,
            to: quota(conn, &held, &next, calendar, now).await?,
        };
        let mut codes = allowed_regions(conn, &[plan.id, next.id]).await?;
        let to = codes.get(&next.id).cloned().unwrap_or_default();
        let regions = Change { from: codes.remove(&plan.id).unwrap_or_default(), to };
        let reach = reach(conn, &held, now).await?;
        let effect = Effect::of(Change { from: &plan, to: &next }, regions, quotas, &reach);
        if dry_run {
            return Ok((Changed { subscription: held, plan, seq: None }, effect));
        }
        diesel::update(subscriptions::table.find(id))
            .set((subscriptions::plan_id.eq(next.id), subscriptions::revision.eq(subscriptions::revision + 1)))
            .execute(conn)
            .await?;
        Ok((announced(conn, id, now).await?, effect))
    })
    .await
}

/// A subscription's traffic in the period of a moment.
pub(crate) async fn quota(
    conn: &mut Conn,
    subscription: &Subscription,
    plan: &Plan,
    calendar: &Calendar,
    now: Time,
) -> QueryResult<Quota> {
    let period = plan.period(subscription, now, calendar);
    let (counters, leased) = period::lent(conn, (subscription.id, period.start), now).await?;
    let traffic = Traffic { used: counters.used(), bonus: counters.bonus(), leased };
    Ok(Quota::of(plan, period, traffic))
}

/// A subscription and its plan, under a lock on its user.
async fn locked(conn: &mut Conn, id: SubscriptionId) -> QueryResult<SubscriptionAndPlan> {
    let user: UserId = subscriptions::table.find(id).select(subscriptions::user_id).first(conn).await?;
    lock_user(conn, user).await?;
    subscription(conn, id).await
}

/// A subscription as it is now; gateways hear of its user.
async fn announced(conn: &mut Conn, id: SubscriptionId, now: Time) -> QueryResult<Changed> {
    let SubscriptionAndPlan { subscription, plan } = subscription(conn, id).await?;
    let seq = events::emit(conn, NewEvent::UserChanged(subscription.user_id), now).await?;
    Ok(Changed { subscription, plan, seq: Some(seq) })
}

/// Whether a payment was not seen before; one that was must have bought the same.
async fn is_new(conn: &mut Conn, payment: &Payment) -> Result<bool, Rejected<BillingError>> {
    let made = diesel::insert_into(payments::table).values(payment).on_conflict_do_nothing().execute(conn).await?;
    if made > 0 {
        return Ok(true);
    }
    let held: Payment = payments::table.find(payment.id.as_str()).select(Payment::as_select()).first(conn).await?;
    let is_same = held.subscription_id == payment.subscription_id
        && held.kind == payment.kind
        && (held.days, held.bytes) == (payment.days, payment.bytes);
    if is_same { Ok(false) } else { Err(BillingError::PaymentUsed.into()) }
}

/// Sessions that end if a subscription ends at a moment: none if its user has another one.
async fn ended_at(conn: &mut Conn, held: &Subscription, at: Time) -> QueryResult<i64> {
    let others: Vec<(Subscription, Plan)> = subscriptions::table
        .inner_join(plans::table.on(plans::id.eq(subscriptions::plan_id)))
        .filter(subscriptions::user_id.eq(held.user_id).and(subscriptions::id.ne(held.id)))
        .select((Subscription::as_select(), Plan::as_select()))
        .order(subscriptions::valid_until.desc())
        .limit(20)
        .load(conn)
        .await?;
    if others.iter().any(|(other, plan)| other.serves(plan, at)) {
        return Ok(0);
    }
    let own = devices::table.filter(devices::user_id.eq(held.user_id)).select(devices::id);
    sessions::table
        .filter(sessions::device_id.eq_any(own).and(sessions::subscription_id.eq(held.id)))
        .filter(sessions::started_at.le(at).and(live().or(sessions::ended_at.ge(at))))
        .count()
        .get_result(conn)
        .await
}

async fn reach(conn: &mut Conn, held: &Subscription, now: Time) -> QueryResult<AffectedSessions> {
    let devices: i64 = devices::table
        .filter(devices::user_id.eq(held.user_id).and(devices::status.eq(DeviceStatus::Active)))
        .count()
        .get_result(conn)
        .await?;
    let through: Vec<Option<NodeId>> = sessions::table
        .filter(sessions::subscription_id.eq(held.id))
        .filter(live().and(sessions::expires_at.gt(now)))
        .select(sessions::outline_node_id)
        .load(conn)
        .await?;
    let ids: Vec<NodeId> = through.iter().flatten().copied().collect();
    let nodes: HashMap<NodeId, String> = outline_nodes::table
        .inner_join(regions::table.on(regions::id.eq(outline_nodes::region_id)))
        .filter(outline_nodes::id.eq_any(ids))
        .select((outline_nodes::id, regions::code))
        .load::<(NodeId, String)>(conn)
        .await?
        .into_iter()
        .collect();
    let sessions = through.into_iter().map(|node| node.and_then(|node| nodes.get(&node).cloned())).collect();
    Ok(AffectedSessions { devices, sessions })
}
