use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::text;
use crate::control::api::answer::{Created, Deleted, Delivered, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, IfMatch, Path, Query};
use crate::control::api::page::{Page, pages, paging};
use crate::control::api::refs::PlanRef;
use crate::control::db::{Deletable, dispatch};
use crate::control::domain::billing::{BillingError, Changed, Effect, Quota};
use crate::control::model::calendar::days as of_days;
use crate::control::model::filter::SubscriptionFilter;
use crate::control::model::id::{PlanId, SubscriptionId, UserId};
use crate::control::model::sort::SubscriptionSort;
use crate::control::model::state::{PaymentKind, SubscriptionState, SubscriptionStatus};
use crate::control::model::types::Time;
use crate::control::model::{Payment, Plan, Subscription, SubscriptionAndPlan, SubscriptionChange};

const DAYS_MAX: i32 = 3660;
const TERM_DAYS_MAX: u32 = 36_600;
const GIGABYTES_MAX: f64 = 1e6;

/// A user's right to a plan for a time.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Subscription)]
pub(in crate::control::api) struct SubscriptionView {
    id: SubscriptionId,
    user_id: UserId,
    plan_id: PlanId,
    /// What was decided; the clock decides the rest.
    status: SubscriptionStatus,
    starts_at: Time,
    valid_until: Time,
    cancelled_at: Option<Time>,
    created_at: Time,
    /// What it is now.
    state: SubscriptionState,
    /// When service ends, grace included.
    served_until: Time,
    /// Counts changes; the `ETag` is made of it.
    revision: i32,
}

impl SubscriptionView {
    /// What a subscription is at a moment.
    #[expect(clippy::needless_pass_by_value, reason = "the row becomes the view")]
    pub(in crate::control::api) fn at(row: Subscription, plan: &Plan, now: Time) -> Self {
        Self {
            state: row.state(plan, now),
            served_until: row.served_until(plan),
            id: row.id,
            user_id: row.user_id,
            plan_id: row.plan_id,
            status: row.status,
            starts_at: row.starts_at,
            valid_until: row.valid_until,
            cancelled_at: row.cancelled_at,
            created_at: row.created_at,
            revision: row.revision,
        }
    }
}

impl View for SubscriptionView {
    fn revision(&self) -> Option<i32> {
        Some(self.revision)
    }
}

/// A subscription after a renewal.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Renewed {
    #[serde(flatten)]
    subscription: SubscriptionView,
    /// The payment was taken before: nothing was changed.
    repeated: bool,
}

/// A subscription after traffic was bought.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ToppedUp {
    #[serde(flatten)]
    subscription: SubscriptionView,
    /// The payment was taken before: nothing was changed.
    repeated: bool,
    quota: Quota,
}

/// What a cancellation ends.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CancelEffect {
    sessions_ended: i64,
}

/// A subscription that is cancelled.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cancelled {
    #[serde(flatten)]
    subscription: SubscriptionView,
    effect: CancelEffect,
}

/// A subscription after a change of its plan, or before it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlanChanged {
    #[serde(flatten)]
    subscription: SubscriptionView,
    dry_run: bool,
    effect: Effect,
}

macro_rules! views {
    ($($view:ty),+) => {$(
        impl View for $view {
            fn revision(&self) -> Option<i32> {
                self.subscription.revision()
            }
        }
    )+};
}

views!(Renewed, ToppedUp, Cancelled, PlanChanged);

/// A subscription to make; it ends at `valid_until`, or after `days`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "user_id": "01997b5e-7c00-7000-8000-000000000001", "plan_id": "Standard", "days": 30 })))]
pub(super) struct NewSubscription {
    user_id: UserId,
    /// The plan's id or name.
    plan_id: PlanRef,
    /// Now if absent.
    starts_at: Option<Time>,
    valid_until: Option<Time>,
    #[schema(minimum = 1, maximum = 36600)]
    days: Option<u32>,
}

/// What is to be changed of a subscription.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "valid_until": "2027-01-31T00:00:00Z" })))]
pub(super) struct SubscriptionPatch {
    /// The plan's id or name.
    plan_id: Option<PlanRef>,
    status: Option<SubscriptionStatus>,
    valid_until: Option<Time>,
}

/// Days that were paid for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "days": 30, "payment_id": "2026-11-0001" })))]
pub(super) struct Renewal {
    #[schema(minimum = 1, maximum = 3660)]
    days: i32,
    /// The payer's own id of the payment: it acts once.
    #[schema(min_length = 1, max_length = 255)]
    payment_id: String,
}

/// Traffic that was paid for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "gb": 10, "payment_id": "2026-11-0002" })))]
pub(super) struct TopUp {
    /// In 10^9 bytes.
    #[schema(minimum = 1e-9, maximum = 1e6)]
    gb: f64,
    /// The payer's own id of the payment: it acts once.
    #[schema(min_length = 1, max_length = 255)]
    payment_id: String,
}

/// Another plan.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "plan_id": "Standard", "dry_run": true })))]
pub(super) struct PlanSwitch {
    /// The plan's id or name.
    plan_id: PlanRef,
    /// Only say what it would do.
    dry_run: Option<bool>,
}

/// Which subscriptions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SubscriptionQuery {
    user_id: Option<UserId>,
    /// By its id or its name.
    plan_id: Option<PlanRef>,
    state: Option<SubscriptionState>,
    /// Ending then or later.
    ends_after: Option<Time>,
    /// Ending before.
    ends_before: Option<Time>,
    /// A field, or `-` and a field for the other direction.
    #[param(inline)]
    sort: Option<Sorting>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<i64>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Also count the items of all pages.
    count: Option<bool>,
}

pages! { SubscriptionQuery => SubscriptionSort }

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

/// Answers with a subscription as it is now, in a form of the caller's.
async fn answer<T>(admin: &Admin, changed: Changed, form: impl FnOnce(SubscriptionView) -> T) -> Delivered<T> {
    let view = SubscriptionView::at(changed.subscription, &changed.plan, admin.now);
    Delivered::of(&admin.state, form(view), changed.seq).await
}

/// Lists subscriptions
#[utoipa::path(get, path = "/subscriptions", tag = "subscriptions", operation_id = "list_subscriptions",
    params(SubscriptionQuery), responses((status = OK, body = Page<SubscriptionView>)))]
pub(super) async fn list(
    admin: Admin,
    Query(query): Query<SubscriptionQuery>,
) -> Result<Json<Page<SubscriptionView>>, ApiError> {
    let paging = paging(&query)?;
    let mut conn = admin.read().await?;
    let filter = SubscriptionFilter {
        user: query.user_id,
        plan: PlanRef::maybe(query.plan_id.as_ref(), &mut conn, "plan_id").await?,
        state: query.state,
        ends_after: query.ends_after,
        ends_before: query.ends_before,
        now: admin.now,
    };
    let found = dispatch!(&mut conn, lists::subscriptions(&filter, &paging))?;
    Page::of(found, &paging, |row| SubscriptionView::at(row.subscription, &row.plan, admin.now))
}

/// Shows a subscription
#[utoipa::path(get, path = "/subscriptions/{id}", tag = "subscriptions", operation_id = "get_subscription",
    params(("id" = SubscriptionId, Path)), responses((status = OK, body = SubscriptionView)))]
pub(super) async fn get(admin: Admin, Path(id): Path<SubscriptionId>) -> Result<One<SubscriptionView>, ApiError> {
    let SubscriptionAndPlan { subscription, plan } = dispatch!(&mut admin.read().await?, billing::subscription(id))?;
    Ok(One(SubscriptionView::at(subscription, &plan, admin.now)))
}

/// Makes a subscription
#[utoipa::path(post, path = "/subscriptions", tag = "subscriptions", operation_id = "create_subscription",
    request_body = NewSubscription, responses((status = CREATED, body = Delivered<SubscriptionView>)))]
pub(super) async fn create(
    admin: Admin,
    Body(new): Body<NewSubscription>,
) -> Result<Created<Delivered<SubscriptionView>>, ApiError> {
    let starts_at = new.starts_at.unwrap_or(admin.now);
    let valid_until = match (new.valid_until, new.days) {
        (Some(until), None) => until,
        (None, Some(days)) if !(1..=TERM_DAYS_MAX).contains(&days) => {
            return Err(ApiError::invalid("days", "OUT_OF_RANGE", format!("must be 1 to {TERM_DAYS_MAX}")));
        }
        (None, Some(days)) => starts_at.after(of_days(days)),
        _ => return Err(ApiError::invalid("valid_until", "MISSING", "give either `valid_until` or `days`")),
    };
    if valid_until <= starts_at {
        return Err(ApiError::invalid("valid_until", "OUT_OF_RANGE", "must be after `starts_at`"));
    }
    let mut conn = admin.write().await?;
    let row = Subscription {
        id: SubscriptionId::fresh(),
        user_id: new.user_id,
        plan_id: new.plan_id.given(&mut conn, "plan_id").await?,
        status: SubscriptionStatus::Active,
        starts_at,
        valid_until,
        cancelled_at: None,
        created_at: admin.now,
        revision: 0,
    };
    let changed = dispatch!(&mut conn, billing::subscribe(&row))
        .map_err(|error| ApiError::from(error).unknown("user_id", "user"))?;
    drop(conn);
    Ok(Created(answer(&admin, changed, |view| view).await))
}

/// Changes a subscription
#[utoipa::path(patch, path = "/subscriptions/{id}", tag = "subscriptions", operation_id = "update_subscription",
    params(("id" = SubscriptionId, Path)), request_body = SubscriptionPatch,
    responses((status = OK, body = Delivered<SubscriptionView>)))]
pub(super) async fn update(
    admin: Admin,
    Path(id): Path<SubscriptionId>,
    IfMatch(expected): IfMatch,
    Body(patch): Body<SubscriptionPatch>,
) -> Result<Delivered<SubscriptionView>, ApiError> {
    let mut conn = admin.write().await?;
    let change = SubscriptionChange {
        plan_id: PlanRef::maybe(patch.plan_id.as_ref(), &mut conn, "plan_id").await?,
        status: patch.status,
        valid_until: patch.valid_until,
        cancelled_at: None,
    };
    let changed = dispatch!(&mut conn, billing::amend(id, &change, &expected, admin.now))?;
    drop(conn);
    Ok(answer(&admin, changed, |view| view).await)
}

/// Deletes a subscription
#[utoipa::path(delete, path = "/subscriptions/{id}", tag = "subscriptions", operation_id = "delete_subscription",
    params(("id" = SubscriptionId, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(id): Path<SubscriptionId>) -> Result<Deleted, ApiError> {
    admin.delete(Deletable::Subscription(id)).await
}

/// Prolongs a subscription, once a payment
#[utoipa::path(post, path = "/subscriptions/{id}/renew", tag = "subscriptions", operation_id = "renew_subscription",
    params(("id" = SubscriptionId, Path)), request_body = Renewal, responses((status = OK, body = Delivered<Renewed>)))]
pub(super) async fn renew(
    admin: Admin,
    Path(id): Path<SubscriptionId>,
    Body(renewal): Body<Renewal>,
) -> Result<Delivered<Renewed>, ApiError> {
    text("payment_id", Some(&renewal.payment_id))?;
    if !(1..=DAYS_MAX).contains(&renewal.days) {
        return Err(ApiError::invalid("days", "OUT_OF_RANGE", format!("must be 1 to {DAYS_MAX}")));
    }
    let payment = Payment {
        id: renewal.payment_id,
        subscription_id: id,
        kind: PaymentKind::Renew,
        days: renewal.days,
        bytes: 0,
        created_at: admin.now,
    };
    let changed = dispatch!(&mut admin.write().await?, billing::renew(&payment))?;
    let repeated = changed.seq.is_none();
    Ok(answer(&admin, changed, |subscription| Renewed { subscription, repeated }).await)
}

/// Adds traffic to the current period, once a payment
#[utoipa::path(post, path = "/subscriptions/{id}/top-up", tag = "subscriptions", operation_id = "top_up_subscription",
    params(("id" = SubscriptionId, Path)), request_body = TopUp, responses((status = OK, body = Delivered<ToppedUp>)))]
pub(super) async fn top_up(
    admin: Admin,
    Path(id): Path<SubscriptionId>,
    Body(top_up): Body<TopUp>,
) -> Result<Delivered<ToppedUp>, ApiError> {
    text("payment_id", Some(&top_up.payment_id))?;
    if !(1e-9..=GIGABYTES_MAX).contains(&top_up.gb) {
        return Err(ApiError::invalid("gb", "OUT_OF_RANGE", format!("must be 1e-9 to {GIGABYTES_MAX}")));
    }
    let payment = Payment {
        id: top_up.payment_id,
        subscription_id: id,
        kind: PaymentKind::TopUp,
        days: 0,
        bytes: bytes(top_up.gb),
        created_at: admin.now,
    };
    let calendar = &admin.state.rules.calendar;
    let (changed, quota) = dispatch!(&mut admin.write().await?, billing::top_up(&payment, calendar))?;
    let repeated = changed.seq.is_none();
    Ok(answer(&admin, changed, |subscription| ToppedUp { subscription, repeated, quota }).await)
}

/// GB are 10^9 bytes.
#[expect(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
fn bytes(gigabytes: f64) -> i64 {
    (gigabytes * 1e9).round() as i64
}

/// Ends a subscription for good
#[utoipa::path(post, path = "/subscriptions/{id}/cancel", tag = "subscriptions", operation_id = "cancel_subscription",
    params(("id" = SubscriptionId, Path)), responses((status = OK, body = Delivered<Cancelled>)))]
pub(super) async fn cancel(admin: Admin, Path(id): Path<SubscriptionId>) -> Result<Delivered<Cancelled>, ApiError> {
    let (changed, sessions_ended) = dispatch!(&mut admin.write().await?, billing::cancel(id, admin.now))?;
    let effect = CancelEffect { sessions_ended };
    Ok(answer(&admin, changed, |subscription| Cancelled { subscription, effect }).await)
}

/// Moves a subscription to another plan
///
/// A dry run only says what that would do.
#[utoipa::path(post, path = "/subscriptions/{id}/change-plan", tag = "subscriptions",
    operation_id = "change_subscription_plan", params(("id" = SubscriptionId, Path)), request_body = PlanSwitch,
    responses((status = OK, body = Delivered<PlanChanged>)))]
pub(super) async fn change_plan(
    admin: Admin,
    Path(id): Path<SubscriptionId>,
    Body(switch): Body<PlanSwitch>,
) -> Result<Delivered<PlanChanged>, ApiError> {
    let dry_run = switch.dry_run.unwrap_or(false);
    let mut conn = admin.write().await?;
    let to = switch.plan_id.given(&mut conn, "plan_id").await?;
    let calendar = &admin.state.rules.calendar;
    let (changed, effect) = dispatch!(&mut conn, billing::change_plan(id, to, dry_run, calendar, admin.now))?;
    drop(conn);
    Ok(answer(&admin, changed, |subscription| PlanChanged { subscription, dry_run, effect }).await)
}
