use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::Value;

use super::{Created, Listed, Paged, created, delivered, listed, text};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Body, FromAdmin, Query};
use crate::control::api::lenient;
use crate::control::db::dispatch;
use crate::control::domain::billing::{BillingError, PlanView};
use crate::control::model::id::{PlanId, RegionId};
use crate::control::model::state::PeriodKind;
use crate::control::model::{Plan, PlanChange};
use crate::control::runtime::ControlState;

const REGIONS_MAX: usize = 1000;
const FAIL_OPEN_MB: i32 = 100;

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
    period: Option<PeriodKind>,
    #[serde(default, deserialize_with = "lenient::value")]
    period_days: Option<i32>,
    #[serde(default, deserialize_with = "lenient::value")]
    grace_hours: Option<i32>,
    #[serde(default, deserialize_with = "lenient::value")]
    fail_open_mb: Option<i32>,
    #[serde(default, deserialize_with = "lenient::list")]
    regions: Option<Vec<String>>,
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
    period: Option<PeriodKind>,
    #[serde(default, deserialize_with = "lenient::nullable")]
    period_days: Option<Option<i32>>,
    #[serde(default, deserialize_with = "lenient::value")]
    grace_hours: Option<i32>,
    #[serde(default, deserialize_with = "lenient::value")]
    fail_open_mb: Option<i32>,
    #[serde(default, deserialize_with = "lenient::list")]
    regions: Option<Vec<String>>,
    #[serde(default, deserialize_with = "lenient::value")]
    price: Option<i64>,
    currency: Option<String>,
}

/// A plan's figures, as far as they are given.
struct Figures<'a> {
    max_devices: Option<i32>,
    max_sessions: Option<i32>,
    traffic_limit_gb: Option<f64>,
    rate_limit_mbps: Option<i32>,
    period_days: Option<i32>,
    grace_hours: Option<i32>,
    fail_open_mb: Option<i32>,
    price: Option<i64>,
    currency: Option<&'a str>,
}

impl Figures<'_> {
    fn check(&self) -> Result<(), ApiError> {
        let ranges = [
            ("max_devices", self.max_devices, 1..=i32::MAX),
            ("max_sessions", self.max_sessions, 1..=i32::MAX),
            ("rate_limit_mbps", self.rate_limit_mbps, 1..=i32::MAX),
            ("period_days", self.period_days, 1..=3660),
            ("grace_hours", self.grace_hours, 0..=87_600),
            ("fail_open_mb", self.fail_open_mb, 0..=1_000_000),
        ];
        for (field, value, range) in ranges {
            if value.is_some_and(|value| !range.contains(&value)) {
                let detail = format!("must be {} to {}", range.start(), range.end());
                return Err(ApiError::invalid(field, "OUT_OF_RANGE", detail));
            }
        }
        if self.traffic_limit_gb.is_some_and(|value| !(0.0..=9e9).contains(&value)) {
            return Err(ApiError::invalid("traffic_limit_gb", "OUT_OF_RANGE", "must be 0 to 9e9"));
        }
        if self.price.is_some_and(|price| price < 0) {
            return Err(ApiError::invalid("price", "OUT_OF_RANGE", "must not be negative"));
        }
        match self.currency {
            Some(code) if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                Err(ApiError::invalid("currency", "INVALID", "must be three capital letters (ISO 4217)"))
            }
            _ => Ok(()),
        }
    }
}

/// The regions of codes, all of them known.
async fn allowed(state: &ControlState, mut codes: Vec<String>) -> Result<Vec<RegionId>, ApiError> {
    codes.sort_unstable();
    codes.dedup();
    if codes.len() > REGIONS_MAX {
        return Err(ApiError::invalid("regions", "TOO_MANY", format!("at most {REGIONS_MAX} regions")));
    }
    let known = dispatch!(&mut state.db.read().await?, billing::regions_by_code(&codes))?;
    match codes.iter().find(|code| !known.iter().any(|(_, known)| known == *code)) {
        Some(code) => Err(ApiError::invalid("regions", "UNKNOWN", format!("there is no region {code:?}"))),
        None => Ok(known.into_iter().map(|(id, _)| id).collect()),
    }
}

async fn offers(state: &ControlState, rows: Vec<Plan>) -> Result<Vec<PlanView>, ApiError> {
    let ids: Vec<PlanId> = rows.iter().map(|plan| plan.id).collect();
    let mut regions = dispatch!(&mut state.db.read().await?, billing::allowed_regions(&ids))?;
    let offer = |plan: Plan| PlanView { regions: regions.remove(&plan.id).unwrap_or_default(), plan };
    Ok(rows.into_iter().map(offer).collect())
}

async fn offer(state: &ControlState, plan: Plan) -> Result<PlanView, ApiError> {
    let mut regions = dispatch!(&mut state.db.read().await?, billing::allowed_regions(&[plan.id]))?;
    Ok(PlanView { regions: regions.remove(&plan.id).unwrap_or_default(), plan })
}

pub(super) async fn list(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Query(page): Paged,
) -> Result<Json<Listed>, ApiError> {
    let limit = page.limit(&state);
    let rows = dispatch!(&mut state.db.read().await?, admin::list_plans(page.after(), limit))?;
    listed(&offers(&state, rows).await?, |offer| offer.plan.id, limit)
}

pub(super) async fn get(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<PlanId>,
) -> Result<Json<PlanView>, ApiError> {
    let row = dispatch!(&mut state.db.read().await?, admin::plan::get(id))?;
    Ok(Json(offer(&state, row).await?))
}

pub(super) async fn create(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Body(new): Body<NewPlan>,
) -> Result<Created, ApiError> {
    text("name", Some(&new.name))?;
    let figures = Figures {
        max_devices: new.max_devices,
        max_sessions: new.max_sessions,
        traffic_limit_gb: new.traffic_limit_gb,
        rate_limit_mbps: new.rate_limit_mbps,
        period_days: new.period_days,
        grace_hours: new.grace_hours,
        fail_open_mb: new.fail_open_mb,
        price: new.price,
        currency: new.currency.as_deref(),
    };
    figures.check()?;
    let period = new.period.unwrap_or(PeriodKind::Month);
    if (period == PeriodKind::Days) != new.period_days.is_some() {
        return Err(BillingError::PeriodDays.into());
    }
    let allowed = allowed(&state, new.regions.unwrap_or_default()).await?;
    let row = Plan {
        id: PlanId::fresh(),
        name: new.name,
        max_devices: new.max_devices,
        max_sessions: new.max_sessions,
        traffic_limit_gb: new.traffic_limit_gb,
        rate_limit_mbps: new.rate_limit_mbps,
        period,
        period_days: new.period_days,
        grace_hours: new.grace_hours.unwrap_or(0),
        fail_open_mb: new.fail_open_mb.unwrap_or(FAIL_OPEN_MB),
        price: new.price.unwrap_or(0),
        currency: new.currency.unwrap_or_else(|| "EUR".into()),
        created_at: state.now(),
    };
    dispatch!(&mut state.db.get().await?, billing::create_plan(&row, &allowed))?;
    created(&offer(&state, row).await?)
}

pub(super) async fn update(
    _: FromAdmin,
    State(state): State<Arc<ControlState>>,
    Path(id): Path<PlanId>,
    Body(patch): Body<PlanPatch>,
) -> Result<Json<Value>, ApiError> {
    text("name", patch.name.as_deref())?;
    let figures = Figures {
        max_devices: patch.max_devices.flatten(),
        max_sessions: patch.max_sessions.flatten(),
        traffic_limit_gb: patch.traffic_limit_gb.flatten(),
        rate_limit_mbps: patch.rate_limit_mbps.flatten(),
        period_days: patch.period_days.flatten(),
        grace_hours: patch.grace_hours,
        fail_open_mb: patch.fail_open_mb,
        price: patch.price,
        currency: patch.currency.as_deref(),
    };
    figures.check()?;
    let allowed = match patch.regions {
        Some(codes) => Some(allowed(&state, codes).await?),
        None => None,
    };
    let leaves_days = patch.period.is_some_and(|period| period != PeriodKind::Days);
    let change = PlanChange {
        name: patch.name,
        max_devices: patch.max_devices,
        max_sessions: patch.max_sessions,
        traffic_limit_gb: patch.traffic_limit_gb,
        rate_limit_mbps: patch.rate_limit_mbps,
        period: patch.period,
        period_days: if leaves_days { patch.period_days.or(Some(None)) } else { patch.period_days },
        grace_hours: patch.grace_hours,
        fail_open_mb: patch.fail_open_mb,
        price: patch.price,
        currency: patch.currency,
    };
    let allowed = allowed.as_deref();
    let (row, seq) = dispatch!(&mut state.db.get().await?, billing::update_plan(id, &change, allowed, state.now()))?;
    delivered(&state, &offer(&state, row).await?, Some(seq)).await
}
