use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Created, Listed, Paged, created_with, delivered, listed, text};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query};
use crate::control::api::lenient;
use crate::control::db::dispatch;
use crate::control::domain::billing::{BillingError, Changed, SubscriptionView};
use crate::control::model::calendar::days as of_days;
use crate::control::model::id::{PlanId, SubscriptionId, UserId};
use crate::control::model::state::{PaymentKind, SubscriptionStatus};
use crate::control::model::types::Time;
use crate::control::model::{Payment, Subscription, SubscriptionChange};
use crate::control::runtime::ControlState;

const DAYS_MAX: i32 = 3660;
const GIGABYTES_MAX: f64 = 1e6;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSubscription {
    user_id: UserId,
    plan_id: PlanId,
    #[serde(default, with = "time::serde::rfc3339::option")]
    starts_at: Option<OffsetDateTime>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    valid_until: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "lenient::value")]
    days: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionPatch {
    plan_id: Option<PlanId>,
    status: Option<SubscriptionStatus>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    valid_until: Option<OffsetDateTime>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Renewal {
    #[serde(default, deserialize_with = "lenient::value")]
    days: Option<i32>,
    payment_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopUp {
    #[serde(default, deserialize_with = "lenient::value")]
    gb: Option<f64>,
    payment_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanSwitch {
    plan_id: PlanId,
    #[serde(default, deserialize_with = "lenient::value")]
    dry_run: Option<bool>,
}

impl From<BillingError> for ApiError {
    fn from(error: BillingError) -> Self {
        let detail = error.to_string();
        match error {
            BillingError::PaymentUsed => Self::conflict("PAYMENT_USED", &detail),
            BillingError::Cancelled => Self::conflict("CANCELLED", &detail),
            BillingError::NotServed => Self::conflict("NOT_SERVED", &detail),
            BillingError::UnknownPlan => Self::invalid("plan_id", "UNKNOWN", detail),
            BillingError::PeriodDays => Self::invalid("period_days", "INVALID", detail),
        }
    }
}

async fn answer(state: &ControlState, changed: Changed, now: Time, more: Value) -> Result<Json<Value>, ApiError> {
    let standing = SubscriptionView::at(changed.subscription, &changed.plan, now);
    let (_, Json(value)) = created_with(&standing, more)?;
    match changed.seq {
        Some(seq) => delivered(state, &value, Some(seq)).await,
        None => Ok(Json(value)),
    }
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, billing::list_subscriptions(page.after(), page.user_id, limit))?;
    let now = state.now();
    let rows: Vec<SubscriptionView> =
        rows.into_iter().map(|(row, plan)| SubscriptionView::at(row, &plan, now)).collect();
    listed(&rows, |row| row.subscription.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<SubscriptionId>,
) -> Result<Json<SubscriptionView>, ApiError> {
    let (row, plan) = dispatch!(&mut state.db.read().await?, billing::subscription(id))?;
    Ok(Json(SubscriptionView::at(row, &plan, state.now())))
}

pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewSubscription>,
) -> Result<Created, ApiError> {
    let now = state.now();
    let starts_at = new.starts_at.map_or(now, Time);
    let valid_until = match (new.valid_until, new.days) {
        (Some(until), None) => Time(until),
        (None, Some(days)) => starts_at.after(of_days(days)),
        _ => return Err(ApiError::invalid("valid_until", "MISSING", "give either `valid_until` or `days`")),
    };
    if valid_until <= starts_at {
        return Err(ApiError::invalid("valid_until", "OUT_OF_RANGE", "must be after `starts_at`"));
    }
    let row = Subscription {
        id: SubscriptionId::fresh(),
        user_id: new.user_id,
        plan_id: new.plan_id,
        status: SubscriptionStatus::Active,
        starts_at,
        valid_until,
        cancelled_at: None,
        created_at: now,
    };
    let changed = dispatch!(&mut state.db.get().await?, billing::subscribe(&row))?;
    let body = answer(&state, changed, now, json!({})).await?;
    Ok((StatusCode::CREATED, body))
}

pub(super) async fn update(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<SubscriptionId>,
    Body(patch): Body<SubscriptionPatch>,
) -> Result<Json<Value>, ApiError> {
    let change = SubscriptionChange {
        plan_id: patch.plan_id,
        status: patch.status,
        valid_until: patch.valid_until.map(Time),
        cancelled_at: None,
    };
    let now = state.now();
    let changed = dispatch!(&mut state.db.get().await?, billing::amend(id, &change, now))?;
    answer(&state, changed, now, json!({})).await
}

/// Prolongs a subscription, once a payment.
pub(super) async fn renew(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<SubscriptionId>,
    Body(renewal): Body<Renewal>,
) -> Result<Json<Value>, ApiError> {
    text("payment_id", Some(&renewal.payment_id))?;
    let days = renewal.days.ok_or_else(|| ApiError::invalid("days", "MISSING", "how many days were paid for"))?;
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(ApiError::invalid("days", "OUT_OF_RANGE", format!("must be 1 to {DAYS_MAX}")));
    }
    let now = state.now();
    let payment = Payment {
        id: renewal.payment_id,
        subscription_id: id,
        kind: PaymentKind::Renew,
        days,
        bytes: 0,
        created_at: now,
    };
    let changed = dispatch!(&mut state.db.get().await?, billing::renew(&payment))?;
    let repeated = changed.seq.is_none();
    answer(&state, changed, now, json!({ "repeated": repeated })).await
}

/// Adds traffic to the current period, once a payment.
pub(super) async fn top_up(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<SubscriptionId>,
    Body(top_up): Body<TopUp>,
) -> Result<Json<Value>, ApiError> {
    text("payment_id", Some(&top_up.payment_id))?;
    let gigabytes = top_up.gb.ok_or_else(|| ApiError::invalid("gb", "MISSING", "how much was paid for"))?;
    if !(1e-9..=GIGABYTES_MAX).contains(&gigabytes) {
        return Err(ApiError::invalid("gb", "OUT_OF_RANGE", format!("must be 1e-9 to {GIGABYTES_MAX}")));
    }
    let now = state.now();
    let payment = Payment {
        id: top_up.payment_id,
        subscription_id: id,
        kind: PaymentKind::TopUp,
        days: 0,
        bytes: bytes(gigabytes),
        created_at: now,
    };
    let (changed, quota) = dispatch!(&mut state.db.get().await?, billing::top_up(&payment, &state.rules.calendar))?;
    let repeated = changed.seq.is_none();
    answer(&state, changed, now, json!({ "repeated": repeated, "quota": quota })).await
}

/// GB are 10^9 bytes.
#[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
fn bytes(gigabytes: f64) -> i64 {
    (gigabytes * 1e9).round() as i64
}

/// Ends a subscription for good.
pub(super) async fn cancel(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<SubscriptionId>,
) -> Result<Json<Value>, ApiError> {
    let now = state.now();
    let (changed, ended) = dispatch!(&mut state.db.get().await?, billing::cancel(id, now))?;
    answer(&state, changed, now, json!({ "effect": { "sessions_ended": ended } })).await
}

/// Moves a subscription to another plan; a dry run only says what that would do.
pub(super) async fn change_plan(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<SubscriptionId>,
    Body(switch): Body<PlanSwitch>,
) -> Result<Json<Value>, ApiError> {
    let (id, to, now) = (id, switch.plan_id, state.now());
    let dry_run = switch.dry_run.unwrap_or(false);
    let change =
        dispatch!(&mut state.db.get().await?, billing::change_plan(id, to, dry_run, &state.rules.calendar, now));
    let (changed, effect) = change?;
    answer(&state, changed, now, json!({ "dry_run": dry_run, "effect": effect })).await
}
