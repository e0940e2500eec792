use diesel::prelude::*;

use super::Subscription;
use super::state::PeriodKind;
use crate::control::model::calendar::{Calendar, Period};
use crate::control::model::id::PlanId;
use crate::control::model::schema::plans;
use crate::control::model::types::Time;

/// What is sold.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
pub struct Plan {
    pub id: PlanId,
    pub name: String,
    pub max_devices: Option<i32>,
    pub max_sessions: Option<i32>,
    pub traffic_limit_gb: Option<f64>,
    pub rate_limit_mbps: Option<i32>,
    pub period: PeriodKind,
    /// Days of a rolling period.
    pub period_days: Option<i32>,
    /// Hours of service after the term.
    pub grace_hours: i32,
    /// Megabytes (10^6) of a session while the control plane is away and its lease is over.
    pub fail_open_mb: i32,
    pub price: i64,
    pub currency: String,
    pub created_at: Time,
    /// Counts changes of what administrators may change.
    pub revision: i32,
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
    pub period: Option<PeriodKind>,
    pub period_days: Option<Option<i32>>,
    pub grace_hours: Option<i32>,
    pub fail_open_mb: Option<i32>,
    pub price: Option<i64>,
    pub currency: Option<String>,
}

impl Plan {
    /// The traffic limit in bytes; GB are 10^9 bytes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate")]
    pub fn limit_bytes(&self) -> Option<u64> {
        self.traffic_limit_gb.map(|gigabytes| (gigabytes * 1e9).round() as u64)
    }

    /// What a session may move beyond its lease while the control plane is away.
    pub fn fail_open_bytes(&self) -> u64 {
        u64::from(self.fail_open_mb.unsigned_abs()) * 1_000_000
    }

    /// The period that a moment falls into.
    pub fn period(&self, subscription: &Subscription, at: Time, calendar: &Calendar) -> Period {
        match (self.period, self.period_days) {
            (PeriodKind::Month, _) => calendar.month(at),
            (PeriodKind::Days, Some(days)) => Period::rolling(subscription.starts_at, days, at),
            (PeriodKind::Term, _) | (PeriodKind::Days, None) => Period { start: subscription.starts_at, end: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::control::model::id::{SubscriptionId, UserId};
    use crate::control::model::state::{SubscriptionState, SubscriptionStatus};

    #[test]
    fn periods_and_limits() {
        let now = Time(datetime!(2026-11-22 10:00 UTC));
        let mut plan = Plan {
            id: PlanId::fresh(),
            name: String::new(),
            max_devices: None,
            max_sessions: None,
            traffic_limit_gb: Some(0.1),
            rate_limit_mbps: None,
            period: PeriodKind::Month,
            period_days: None,
            grace_hours: 1,
            fail_open_mb: 5,
            price: 0,
            currency: String::new(),
            created_at: now,
            revision: 0,
        };
        let subscription = Subscription {
            id: SubscriptionId::fresh(),
            user_id: UserId::fresh(),
            plan_id: plan.id,
            status: SubscriptionStatus::Active,
            starts_at: Time(datetime!(2026-11-05 10:00 UTC)),
            valid_until: Time(datetime!(2026-12-05 10:00 UTC)),
            cancelled_at: None,
            created_at: now,
            revision: 0,
        };
        let calendar = Calendar::default();
        assert_eq!((plan.limit_bytes(), plan.fail_open_bytes()), (Some(100_000_000), 5_000_000));
        assert_eq!(plan.period(&subscription, now, &calendar).start, Time(datetime!(2026-11-01 0:00 UTC)));
        plan.period = PeriodKind::Term;
        assert_eq!(plan.period(&subscription, now, &calendar), Period { start: subscription.starts_at, end: None });
        (plan.period, plan.period_days) = (PeriodKind::Days, Some(7));
        let week =
            Period { start: Time(datetime!(2026-11-19 10:00 UTC)), end: Some(Time(datetime!(2026-11-26 10:00 UTC))) };
        assert_eq!(plan.period(&subscription, now, &calendar), week);
        assert!(subscription.serves(&plan, now) && subscription.serves(&plan, subscription.starts_at));
        assert_eq!(subscription.state(&plan, now), SubscriptionState::Active);
        assert!(subscription.serves(&plan, subscription.valid_until), "grace");
        assert_eq!(subscription.state(&plan, subscription.valid_until), SubscriptionState::Grace);
        let later = Time(datetime!(2026-12-05 11:00 UTC));
        assert!(!subscription.serves(&plan, later));
        assert_eq!(subscription.state(&plan, later), SubscriptionState::Expired);
        assert_eq!(subscription.state(&plan, Time(datetime!(2026-11-01 0:00 UTC))), SubscriptionState::Pending);
    }
}
