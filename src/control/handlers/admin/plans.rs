use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State as Shared};
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Created, Listed, Paged, created, listed, one_of, text};
use crate::control::State;
use crate::control::db::on;
use crate::control::db::types::{Id, Time};
use crate::control::error::ApiError;
use crate::control::extract::{Body, FromAdmin};
use crate::control::lenient;
use crate::control::models::{Plan, PlanChange, Subscription, SubscriptionChange};

const PERIODS: [&str; 2] = ["month", "term"];
const STATES: [&str; 3] = ["active", "expired", "cancelled"];
const DAY_SECONDS: u64 = 86_400;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPlan {
    name: String,
    #[serde(default, deserialize_with = "lenient::value")]
    max_devices: Option<i32>,
    #[serde(default, deserialize_with = "lenient::value")]
    max_sessions: Option<i32>,
    #[serde(default, deserialize_with = "lenient::value")]
    traffic_limit_gb: Option<f64>,
    #[serde(default, deserialize_with = "lenient::value")]
    rate_limit_mbps: Option<i32>,
    period: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    price: Option<i64>,
    currency: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::option_option, reason = "absent leaves a column alone, null clears it")]
pub(super) struct PlanPatch {
    name: Option<String>,
    #[serde(default, deserialize_with = "lenient::nullable")]
    max_devices: Option<Option<i32>>,
    #[serde(default, deserialize_with = "lenient::nullable")]
    max_sessions: Option<Option<i32>>,
    #[serde(default, deserialize_with = "lenient::nullable")]
    traffic_limit_gb: Option<Option<f64>>,
    #[serde(default, deserialize_with = "lenient::nullable")]
    rate_limit_mbps: Option<Option<i32>>,
    period: Option<String>,
    #[serde(default, deserialize_with = "lenient::value")]
    price: Option<i64>,
    currency: Option<String>,
}

fn limits(
    devices: Option<i32>,
    sessions: Option<i32>,
    gigabytes: Option<f64>,
    rate: Option<i32>,
) -> Result<(), ApiError> {
    for (field, value) in [("max_devices", devices), ("max_sessions", sessions), ("rate_limit_mbps", rate)] {
        if value.is_some_and(|value| value < 1) {
            return Err(ApiError::invalid(field, "OUT_OF_RANGE", "must be at least 1"));
        }
    }
    if gigabytes.is_some_and(|value| !(0.0..=9e9).contains(&value)) {
        return Err(ApiError::invalid("traffic_limit_gb", "OUT_OF_RANGE", "must be 0 to 9e9"));
    }
    Ok(())
}

fn money(price: Option<i64>, currency: Option<&str>) -> Result<(), ApiError> {
    if price.is_some_and(|price| price < 0) {
        return Err(ApiError::invalid("price", "OUT_OF_RANGE", "must not be negative"));
    }
    if currency.is_some_and(|code| code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_uppercase())) {
        return Err(ApiError::invalid("currency", "INVALID", "must be three capital letters (ISO 4217)"));
    }
    Ok(())
}

pub(super) async fn list(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = on!(&mut state.db.get().await?, admin::list_plans(page.after(), None, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Plan>, ApiError> {
    Ok(Json(on!(&mut state.db.get().await?, admin::plan::get(Id(id)))?))
}

pub(super) async fn create(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewPlan>,
) -> Result<Created, ApiError> {
    text("name", Some(&new.name))?;
    one_of("period", new.period.as_deref(), &PERIODS)?;
    limits(new.max_devices, new.max_sessions, new.traffic_limit_gb, new.rate_limit_mbps)?;
    money(new.price, new.currency.as_deref())?;
    let row = Plan {
        id: Id::fresh(),
        name: new.name,
        max_devices: new.max_devices,
        max_sessions: new.max_sessions,
        traffic_limit_gb: new.traffic_limit_gb,
        rate_limit_mbps: new.rate_limit_mbps,
        period: new.period.unwrap_or_else(|| "month".into()),
        price: new.price.unwrap_or(0),
        currency: new.currency.unwrap_or_else(|| "EUR".into()),
        created_at: Time::now(),
    };
    on!(&mut state.db.get().await?, admin::create_plan(&row))?;
    created(&row)
}

pub(super) async fn update(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
    Body(patch): Body<PlanPatch>,
) -> Result<Json<Plan>, ApiError> {
    text("name", patch.name.as_deref())?;
    one_of("period", patch.period.as_deref(), &PERIODS)?;
    limits(
        patch.max_devices.flatten(),
        patch.max_sessions.flatten(),
        patch.traffic_limit_gb.flatten(),
        patch.rate_limit_mbps.flatten(),
    )?;
    money(patch.price, patch.currency.as_deref())?;
    let change = PlanChange {
        name: patch.name,
        max_devices: patch.max_devices,
        max_sessions: patch.max_sessions,
        traffic_limit_gb: patch.traffic_limit_gb,
        rate_limit_mbps: patch.rate_limit_mbps,
        period: patch.period,
        price: patch.price,
        currency: patch.currency,
    };
    Ok(Json(on!(&mut state.db.get().await?, admin::plan::update(Id(id), &change))?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSubscription {
    user_id: Uuid,
    plan_id: Uuid,
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
    plan_id: Option<Uuid>,
    status: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    valid_until: Option<OffsetDateTime>,
}

pub(super) async fn list_subscriptions(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let of = page.user_id.map(Id);
    let rows = on!(&mut state.db.get().await?, admin::list_subscriptions(page.after(), of, limit))?;
    listed(&rows, |row| row.id, limit)
}

pub(super) async fn get_subscription(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
) -> Result<Json<Subscription>, ApiError> {
    Ok(Json(on!(&mut state.db.get().await?, admin::subscription::get(Id(id)))?))
}

pub(super) async fn create_subscription(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewSubscription>,
) -> Result<Created, ApiError> {
    let now = Time::now();
    let starts_at = new.starts_at.map_or(now, Time);
    let valid_until = match (new.valid_until, new.days) {
        (Some(until), None) => Time(until),
        (None, Some(days)) => starts_at.after(Duration::from_secs(u64::from(days) * DAY_SECONDS)),
        _ => return Err(ApiError::invalid("valid_until", "MISSING", "give either `valid_until` or `days`")),
    };
    if valid_until <= starts_at {
        return Err(ApiError::invalid("valid_until", "OUT_OF_RANGE", "must be after `starts_at`"));
    }
    let row = Subscription {
        id: Id::fresh(),
        user_id: Id(new.user_id),
        plan_id: Id(new.plan_id),
        status: "active".into(),
        starts_at,
        valid_until,
        created_at: now,
    };
    on!(&mut state.db.get().await?, admin::create_subscription(&row))?;
    created(&row)
}

pub(super) async fn update_subscription(
    _: FromAdmin,
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<Uuid>,
    Body(patch): Body<SubscriptionPatch>,
) -> Result<Json<Subscription>, ApiError> {
    one_of("status", patch.status.as_deref(), &STATES)?;
    let change = SubscriptionChange {
        plan_id: patch.plan_id.map(Id),
        status: patch.status,
        valid_until: patch.valid_until.map(Time),
    };
    Ok(Json(on!(&mut state.db.get().await?, admin::subscription::update(Id(id), &change))?))
}
