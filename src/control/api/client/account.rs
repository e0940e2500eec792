//! What a user is shown of the account (docs/02, "Client endpoints").

use serde::Serialize;
use utoipa::ToSchema;

use crate::control::model::calendar::{Period, days};
use crate::control::model::id::{DeviceId, SubscriptionId, UserId};
use crate::control::model::state::{DeviceStatus, SubscriptionState, UserStatus};
use crate::control::model::types::Time;
use crate::control::model::{Counters, Device, Plan, Subscription, User};

/// The account of a device's user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Account {
    user: AccountUser,
    subscription: Option<AccountSubscription>,
    /// Null without a subscription that serves.
    traffic: Option<AccountTraffic>,
    limits: AccountLimits,
    devices: Vec<AccountDevice>,
}

/// Who it is.
#[derive(Debug, Serialize, ToSchema)]
struct AccountUser {
    id: UserId,
    status: UserStatus,
}

/// What pays for the traffic.
#[derive(Debug, Serialize, ToSchema)]
struct AccountSubscription {
    id: SubscriptionId,
    /// The plan's name.
    plan: String,
    state: SubscriptionState,
    starts_at: Time,
    valid_until: Time,
    /// A begun day counts.
    days_left: u64,
}

/// The traffic of the current period.
#[derive(Debug, Serialize, ToSchema)]
struct AccountTraffic {
    /// Bought traffic included; null without a limit.
    limit_bytes: Option<u64>,
    used_bytes: u64,
    remaining_bytes: Option<u64>,
    period_start: Time,
    period_end: Option<Time>,
}

/// What the plan allows; null for any number.
#[derive(Debug, Serialize, ToSchema)]
struct AccountLimits {
    max_devices: Option<i32>,
    max_sessions: Option<i32>,
    rate_limit_mbps: Option<i32>,
}

/// A device of the user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountDevice {
    id: DeviceId,
    name: String,
    platform: String,
    status: DeviceStatus,
    created_at: Time,
    last_seen_at: Option<Time>,
    /// It is the one that asks.
    this: bool,
}

/// A period and what it has seen.
pub(super) struct Spent {
    pub(super) period: Period,
    pub(super) counters: Counters,
}

/// What an account is made of.
pub(super) struct Facts<'a> {
    pub(super) user: &'a User,
    pub(super) paid: Option<(&'a Subscription, &'a Plan)>,
    pub(super) spent: Option<Spent>,
    pub(super) devices: &'a [Device],
    /// The one that asks.
    pub(super) device: DeviceId,
    pub(super) now: Time,
}

impl From<Facts<'_>> for Account {
    fn from(facts: Facts<'_>) -> Self {
        let plan = facts.paid.map(|(_, plan)| plan);
        Self {
            user: AccountUser { id: facts.user.id, status: facts.user.status },
            subscription: facts.paid.map(|(held, plan)| AccountSubscription::at(held, plan, facts.now)),
            traffic: plan.zip(facts.spent).map(|(plan, spent)| AccountTraffic::of(plan, &spent)),
            limits: AccountLimits {
                max_devices: plan.and_then(|plan| plan.max_devices),
                max_sessions: plan.and_then(|plan| plan.max_sessions),
                rate_limit_mbps: plan.and_then(|plan| plan.rate_limit_mbps),
            },
            devices: facts.devices.iter().map(|device| AccountDevice::of(device, facts.device)).collect(),
        }
    }
}

impl AccountSubscription {
    fn at(held: &Subscription, plan: &Plan, now: Time) -> Self {
        let state = held.state(plan, now);
        Self {
            id: held.id,
            plan: plan.name.clone(),
            state,
            starts_at: held.starts_at,
            valid_until: held.valid_until,
            days_left: if state == SubscriptionState::Cancelled { 0 } else { days_left(held.valid_until, now) },
        }
    }
}

impl AccountTraffic {
    fn of(plan: &Plan, Spent { period, counters }: &Spent) -> Self {
        let used = counters.used();
        let limit = plan.limit_bytes().map(|limit| limit.saturating_add(counters.bonus()));
        Self {
            limit_bytes: limit,
            used_bytes: used,
            remaining_bytes: limit.map(|limit| limit.saturating_sub(used)),
            period_start: period.start,
            period_end: period.end,
        }
    }
}

impl AccountDevice {
    pub(super) fn of(device: &Device, asking: DeviceId) -> Self {
        Self {
            id: device.id,
            name: device.name.clone(),
            platform: device.platform.clone(),
            status: device.status,
            created_at: device.created_at,
            last_seen_at: device.last_seen_at,
            this: device.id == asking,
        }
    }
}

/// Days until a moment, a begun one counts.
fn days_left(until: Time, now: Time) -> u64 {
    (until.0 - now.0).whole_seconds().max(0).unsigned_abs().div_ceil(days(1).as_secs())
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn begun_days_count() {
        let until = Time(datetime!(2026-12-05 10:00 UTC));
        for (now, left) in [
            (datetime!(2026-11-05 10:00 UTC), 30),
            (datetime!(2026-11-05 10:00:01 UTC), 30),
            (datetime!(2026-12-05 9:59:59 UTC), 1),
            (datetime!(2026-12-05 10:00 UTC), 0),
            (datetime!(2027-01-01 0:00 UTC), 0),
        ] {
            assert_eq!(days_left(until, Time(now)), left, "{now}");
        }
    }
}
