use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::text;
use crate::control::api::answer::{Created, Deleted, Delivered, One, View};
use crate::control::api::error::ApiError;
use crate::control::api::extract::{Admin, Body, IfMatch, Path, Query, existing};
use crate::control::api::page::{Page, pages, paging};
use crate::control::api::patch;
use crate::control::api::refs::PlanRef;
use crate::control::db::{Deletable, dispatch};
use crate::control::domain::billing::BillingError;
use crate::control::model::id::{PlanId, RegionId};
use crate::control::model::sort::PlanSort;
use crate::control::model::state::PeriodKind;
use crate::control::model::types::Time;
use crate::control::model::{Plan, PlanChange};

const REGIONS_MAX: usize = 1000;
const FAIL_OPEN_MB: i32 = 100;
const CURRENCY: &str = "EUR";

/// What is sold.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
pub(in crate::control::api) struct PlanView {
    id: PlanId,
    #[schema(examples("Standard"))]
    name: String,
    max_devices: Option<i32>,
    max_sessions: Option<i32>,
    /// Per period, up and down together, in 10^9 bytes.
    traffic_limit_gb: Option<f64>,
    /// Of each session.
    rate_limit_mbps: Option<i32>,
    period: PeriodKind,
    /// Days of a rolling period.
    period_days: Option<i32>,
    /// Hours of service after the term.
    grace_hours: i32,
    /// Megabytes (10^6) of a session while the control plane is away and its lease is over.
    fail_open_mb: i32,
    /// In the currency's minor unit.
    price: i64,
    /// ISO 4217.
    currency: String,
    created_at: Time,
    /// Codes of the regions that it is limited to; empty for all.
    regions: Vec<String>,
    /// Counts changes; the `ETag` is made of it.
    revision: i32,
}

impl PlanView {
    pub(in crate::control::api) fn new(row: Plan, regions: Vec<String>) -> Self {
        Self {
            id: row.id,
            name: row.name,
            max_devices: row.max_devices,
            max_sessions: row.max_sessions,
            traffic_limit_gb: row.traffic_limit_gb,
            rate_limit_mbps: row.rate_limit_mbps,
            period: row.period,
            period_days: row.period_days,
            grace_hours: row.grace_hours,
            fail_open_mb: row.fail_open_mb,
            price: row.price,
            currency: row.currency,
            created_at: row.created_at,
            regions,
            revision: row.revision,
        }
    }
}

impl View for PlanView {
    fn revision(&self) -> Option<i32> {
        Some(self.revision)
    }
}

/// A plan to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "name": "Standard", "max_devices": 5, "traffic_limit_gb": 100 })))]
pub(super) struct NewPlan {
    #[schema(min_length = 1, max_length = 255)]
    name: String,
    /// Absent for any number.
    #[schema(minimum = 1)]
    max_devices: Option<i32>,
    #[schema(minimum = 1)]
    max_sessions: Option<i32>,
    #[schema(minimum = 0, maximum = 9e9)]
    traffic_limit_gb: Option<f64>,
    #[schema(minimum = 1)]
    rate_limit_mbps: Option<i32>,
    /// `month` if absent.
    period: Option<PeriodKind>,
    /// With `period` = `days`, and only then.
    #[schema(minimum = 1, maximum = 3660)]
    period_days: Option<i32>,
    #[schema(minimum = 0, maximum = 87600)]
    grace_hours: Option<i32>,
    #[schema(minimum = 0, maximum = 1_000_000)]
    fail_open_mb: Option<i32>,
    /// Codes; absent or empty for all regions.
    #[schema(max_items = 1000)]
    regions: Option<Vec<String>>,
    #[schema(minimum = 0)]
    price: Option<i64>,
    #[schema(pattern = "^[A-Z]{3}$")]
    currency: Option<String>,
}

/// What is to be changed of a plan; null takes a limit away.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({ "traffic_limit_gb": 200 })))]
#[expect(clippy::option_option, reason = "absent leaves a column alone, null clears it")]
pub(super) struct PlanPatch {
    #[schema(min_length = 1, max_length = 255)]
    name: Option<String>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<i32>, minimum = 1)]
    max_devices: Option<Option<i32>>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<i32>, minimum = 1)]
    max_sessions: Option<Option<i32>>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 9e9)]
    traffic_limit_gb: Option<Option<f64>>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<i32>, minimum = 1)]
    rate_limit_mbps: Option<Option<i32>>,
    period: Option<PeriodKind>,
    #[serde(default, deserialize_with = "patch::nullable")]
    #[schema(value_type = Option<i32>, minimum = 1, maximum = 3660)]
    period_days: Option<Option<i32>>,
    #[schema(minimum = 0, maximum = 87600)]
    grace_hours: Option<i32>,
    #[schema(minimum = 0, maximum = 1_000_000)]
    fail_open_mb: Option<i32>,
    /// Codes; empty for all regions.
    #[schema(max_items = 1000)]
    regions: Option<Vec<String>>,
    #[schema(minimum = 0)]
    price: Option<i64>,
    #[schema(pattern = "^[A-Z]{3}$")]
    currency: Option<String>,
}

/// Which plans.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PlanQuery {
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

pages! { PlanQuery => PlanSort }

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
async fn allowed(admin: &Admin, mut codes: Vec<String>) -> Result<Vec<RegionId>, ApiError> {
    codes.sort_unstable();
    codes.dedup();
    if codes.len() > REGIONS_MAX {
        return Err(ApiError::invalid("regions", "TOO_MANY", format!("at most {REGIONS_MAX} regions")));
    }
    let known = dispatch!(&mut admin.read().await?, billing::regions_by_code(&codes))?;
    match codes.iter().find(|code| !known.iter().any(|(_, known)| known == *code)) {
        Some(code) => Err(ApiError::invalid("regions", "UNKNOWN", format!("there is no region {code:?}"))),
        None => Ok(known.into_iter().map(|(id, _)| id).collect()),
    }
}

async fn shown(admin: &Admin, plan: Plan) -> Result<PlanView, ApiError> {
    let mut regions = dispatch!(&mut admin.read().await?, billing::allowed_regions(&[plan.id]))?;
    let codes = regions.remove(&plan.id).unwrap_or_default();
    Ok(PlanView::new(plan, codes))
}

/// Names the plan that has a name already, if that is what an error means.
async fn taken(admin: &Admin, error: ApiError, name: &str) -> ApiError {
    existing!(admin, error, names::plan_named(name), format!("a plan {name:?} exists"))
}

/// Lists plans
#[utoipa::path(get, path = "/plans", tag = "plans", operation_id = "list_plans", params(PlanQuery),
    responses((status = OK, body = Page<PlanView>)))]
pub(super) async fn list(admin: Admin, Query(query): Query<PlanQuery>) -> Result<Json<Page<PlanView>>, ApiError> {
    let paging = paging(&query)?;
    let mut conn = admin.read().await?;
    let found = dispatch!(&mut conn, lists::plans(&(), &paging))?;
    let ids: Vec<PlanId> = found.rows.iter().map(|plan| plan.id).collect();
    let regions = dispatch!(&mut conn, billing::allowed_regions(&ids))?;
    Page::of(found, &paging, |plan| {
        let codes = regions.get(&plan.id).cloned().unwrap_or_default();
        PlanView::new(plan, codes)
    })
}

/// Shows a plan
#[utoipa::path(get, path = "/plans/{id}", tag = "plans", operation_id = "get_plan",
    params(("id" = PlanRef, Path)), responses((status = OK, body = PlanView)))]
pub(super) async fn get(admin: Admin, Path(plan): Path<PlanRef>) -> Result<One<PlanView>, ApiError> {
    let mut conn = admin.read().await?;
    let id = plan.asked(&mut conn).await?;
    let row = dispatch!(&mut conn, admin::plan::get(id))?;
    drop(conn);
    shown(&admin, row).await.map(One)
}

/// Makes a plan
#[utoipa::path(post, path = "/plans", tag = "plans", operation_id = "create_plan", request_body = NewPlan,
    responses((status = CREATED, body = PlanView)))]
pub(super) async fn create(admin: Admin, Body(new): Body<NewPlan>) -> Result<Created<PlanView>, ApiError> {
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
    let allowed = allowed(&admin, new.regions.unwrap_or_default()).await?;
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
        currency: new.currency.unwrap_or_else(|| CURRENCY.into()),
        created_at: admin.now,
        revision: 0,
    };
    let made = dispatch!(&mut admin.write().await?, billing::create_plan(&row, &allowed));
    match made {
        Ok(()) => shown(&admin, row).await.map(Created),
        Err(error) => Err(taken(&admin, error.into(), &row.name).await),
    }
}

/// Changes a plan
///
/// Its sessions have the new limits at once.
#[utoipa::path(patch, path = "/plans/{id}", tag = "plans", operation_id = "update_plan",
    params(("id" = PlanRef, Path)), request_body = PlanPatch, responses((status = OK, body = Delivered<PlanView>)))]
pub(super) async fn update(
    admin: Admin,
    Path(plan): Path<PlanRef>,
    IfMatch(expected): IfMatch,
    Body(patch): Body<PlanPatch>,
) -> Result<Delivered<PlanView>, ApiError> {
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
        Some(codes) => Some(allowed(&admin, codes).await?),
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
    let mut conn = admin.write().await?;
    let id = plan.asked(&mut conn).await?;
    let allowed = allowed.as_deref();
    let changed = dispatch!(&mut conn, billing::update_plan(id, &change, &expected, allowed, admin.now));
    drop(conn);
    match (changed, change.name) {
        (Ok(changed), _) => {
            let view = shown(&admin, changed.row).await?;
            Ok(Delivered::of(&admin.state, view, changed.event_seq).await)
        }
        (Err(error), Some(name)) => Err(taken(&admin, error.into(), &name).await),
        (Err(error), None) => Err(error.into()),
    }
}

/// Deletes a plan that nobody has
#[utoipa::path(delete, path = "/plans/{id}", tag = "plans", operation_id = "delete_plan",
    params(("id" = PlanRef, Path)), responses((status = NO_CONTENT)))]
pub(super) async fn delete(admin: Admin, Path(plan): Path<PlanRef>) -> Result<Deleted, ApiError> {
    let id = plan.asked(&mut admin.read().await?).await?;
    admin.delete(Deletable::Plan(id)).await
}
