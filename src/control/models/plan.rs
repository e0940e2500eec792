use diesel::prelude::*;
use serde::Serialize;
use time::{OffsetDateTime, Time as Clock, UtcOffset};

use crate::control::db::schema::{plans, regions, subscriptions};
use crate::control::db::types::{Id, Time};

/// What is sold.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, Serialize)]
pub struct Plan {
    pub id: Id,
    pub name: String,
    pub max_devices: Option<i32>,
    pub max_sessions: Option<i32>,
    pub traffic_limit_gb: Option<f64>,
    pub rate_limit_mbps: Option<i32>,
    pub period: String,
    pub price: i64,
    pub currency: String,
    pub created_at: Time,
}

/// What an administrator may change of a plan.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = plans)]
#[expect(clippy::option_option, reason = "absent leaves a column alone, null clears it")]
pub struct PlanChange {
    pub name: Option<String>,
    pub max_devices: Option<Option<i32>>,
    pub max_sessions: Option<Option<i32>>,
    pub traffic_limit_gb: Option<Option<f64>>,
    pub rate_limit_mbps: Option<Option<i32>>,
    pub period: Option<String>,
    pub price: Option<i64>,
    pub currency: Option<String>,
}

impl Plan {
    /// The traffic limit in bytes; GB are 10^9 bytes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate")]
    pub fn limit_bytes(&self) -> Option<u64> {
        self.traffic_limit_gb.map(|gigabytes| (gigabytes * 1e9).round() as u64)
    }

    /// When the period began that `at` falls into.
    pub fn period_start(&self, subscription: &Subscription, at: Time) -> Time {
        if self.period == "term" {
            return subscription.starts_at;
        }
        let day = at.0.to_offset(UtcOffset::UTC).date();
        let first = day.replace_day(1).unwrap_or(day);
        Time(OffsetDateTime::new_utc(first, Clock::MIDNIGHT))
    }
}

/// A user's right to a plan for a time.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, Serialize)]
pub struct Subscription {
    pub id: Id,
    pub user_id: Id,
    pub plan_id: Id,
    pub status: String,
    pub starts_at: Time,
    pub valid_until: Time,
    pub created_at: Time,
}

/// What an administrator may change of a subscription.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = subscriptions)]
pub struct SubscriptionChange {
    pub plan_id: Option<Id>,
    pub status: Option<String>,
    pub valid_until: Option<Time>,
}

impl Subscription {
    /// Whether it pays for traffic at a moment.
    pub fn is_valid(&self, now: Time) -> bool {
        self.status == "active" && self.starts_at <= now && now < self.valid_until
    }
}

/// Where traffic leaves.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, Serialize)]
pub struct Region {
    pub id: Id,
    pub code: String,
    pub name: String,
}

/// What an administrator may change of a region.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = regions)]
pub struct RegionChange {
    pub code: Option<String>,
    pub name: Option<String>,
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn periods_and_limits() {
        let now = Time(datetime!(2026-11-22 10:00 UTC));
        let mut plan = Plan {
            id: Id::fresh(),
            name: String::new(),
            max_devices: None,
            max_sessions: None,
            traffic_limit_gb: Some(0.1),
            rate_limit_mbps: None,
            period: "month".into(),
            price: 0,
            currency: String::new(),
            created_at: now,
        };
        let subscription = Subscription {
            id: Id::fresh(),
            user_id: Id::fresh(),
            plan_id: plan.id,
            status: "active".into(),
            starts_at: Time(datetime!(2026-11-05 10:00 UTC)),
            valid_until: Time(datetime!(2026-12-05 10:00 UTC)),
            created_at: now,
        };
        assert_eq!(plan.limit_bytes(), Some(100_000_000));
        assert_eq!(plan.period_start(&subscription, now), Time(datetime!(2026-11-01 0:00 UTC)));
        plan.period = "term".into();
        assert_eq!(plan.period_start(&subscription, now), subscription.starts_at);
        assert!(subscription.is_valid(now) && subscription.is_valid(subscription.starts_at));
        assert!(!subscription.is_valid(subscription.valid_until));
    }
}
