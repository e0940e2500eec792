//! What payments and changes of plan do to a subscription (docs/02, "Plans and subscriptions").

use serde::Serialize;
use utoipa::ToSchema;

use crate::control::domain::device_limit;
use crate::control::domain::lease::Balance;
use crate::control::model::calendar::Period;
use crate::control::model::types::Time;
use crate::control::model::{Plan, Subscription};

/// Why a plan or a subscription stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BillingError {
    #[error("the payment has bought something else")]
    PaymentUsed,
    #[error("the subscription is cancelled")]
    Cancelled,
    #[error("the subscription serves nobody now: renew it first")]
    NotServed,
    #[error("there is no such plan")]
    UnknownPlan,
    #[error("a period of days needs their number, and no other period has one")]
    PeriodDays,
}

/// A subscription after a change.
#[derive(Debug)]
pub(crate) struct Changed {
    pub subscription: Subscription,
    pub plan: Plan,
    /// Number of the event; none if nothing was changed.
    pub seq: Option<i64>,
}

/// Bytes of a period.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub used: u64,
    pub bonus: u64,
    /// Lent to live sessions and not yet reported.
    pub leased: u64,
}

/// A subscription's traffic in its period.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Quota {
    /// The plan's, without the bonus.
    pub limit_bytes: Option<u64>,
    pub used_bytes: u64,
    pub bonus_bytes: u64,
    pub leased_bytes: u64,
    pub remaining_bytes: Option<u64>,
    pub period_start: Time,
    pub period_end: Option<Time>,
}

impl Quota {
    /// What a plan leaves of a period.
    pub(crate) fn of(plan: &Plan, period: Period, traffic: Traffic) -> Self {
        Self {
            limit_bytes: plan.limit_bytes(),
            used_bytes: traffic.used,
            bonus_bytes: traffic.bonus,
            leased_bytes: traffic.leased,
            remaining_bytes: Balance::of(plan, traffic.bonus, traffic.used).map(|balance| balance.remaining()),
            period_start: period.start,
            period_end: period.end,
        }
    }
}

/// A value before and after a change.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Change<T> {
    pub from: T,
    pub to: T,
}

/// Whom a change of plan reaches.
#[derive(Clone, Debug)]
pub(crate) struct AffectedSessions {
    /// Active devices of the user.
    pub devices: i64,
    /// The regions of the live sessions that the subscription pays for, where they are known.
    pub sessions: Vec<Option<String>>,
}

/// What a change of plan means.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Effect {
    pub from: String,
    pub to: String,
    pub limit_bytes: Change<Option<u64>>,
    /// What counts against the new limit.
    pub used_bytes: u64,
    pub bonus_bytes: u64,
    pub remaining_bytes: Option<u64>,
    pub period_start: Time,
    /// The new plan counts from another moment, so that what was used in the old period does not count.
    pub new_period: bool,
    /// What was used in the old period.
    pub used_before_bytes: u64,
    pub max_devices: Change<Option<i32>>,
    /// Devices more than the new plan allows: the newest are refused.
    pub devices_over: i64,
    pub max_sessions: Change<Option<i32>>,
    pub rate_limit_mbps: Change<Option<i32>>,
    /// Codes; empty is all.
    pub regions: Change<Vec<String>>,
    pub sessions: usize,
    /// Of these the ones that go through regions that the new plan does not allow: they end.
    pub sessions_elsewhere: usize,
}

impl Effect {
    /// The effect of one plan after another.
    pub(crate) fn of(
        plans: Change<&Plan>,
        regions: Change<Vec<String>>,
        quotas: Change<Quota>,
        reach: &AffectedSessions,
    ) -> Self {
        let Change { from, to } = plans;
        let allowed = |code: &String| regions.to.is_empty() || regions.to.contains(code);
        let sessions_elsewhere = reach.sessions.iter().flatten().filter(|code| !allowed(code)).count();
        let devices_over = device_limit::surplus(to, reach.devices);
        Self {
            from: from.name.clone(),
            to: to.name.clone(),
            limit_bytes: Change { from: quotas.from.limit_bytes, to: quotas.to.limit_bytes },
            used_bytes: quotas.to.used_bytes,
            bonus_bytes: quotas.to.bonus_bytes,
            remaining_bytes: quotas.to.remaining_bytes,
            period_start: quotas.to.period_start,
            new_period: quotas.from.period_start != quotas.to.period_start,
            used_before_bytes: quotas.from.used_bytes,
            max_devices: Change { from: from.max_devices, to: to.max_devices },
            devices_over,
            max_sessions: Change { from: from.max_sessions, to: to.max_sessions },
            rate_limit_mbps: Change { from: from.rate_limit_mbps, to: to.rate_limit_mbps },
            regions,
            sessions: reach.sessions.len(),
            sessions_elsewhere,
        }
    }
}
