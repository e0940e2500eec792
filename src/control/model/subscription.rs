use std::time::Duration;

use diesel::prelude::*;

use super::Plan;
use super::state::{PaymentKind, SubscriptionState, SubscriptionStatus};
use crate::control::model::id::{PlanId, SubscriptionId, UserId};
use crate::control::model::schema::{payments, subscriptions};
use crate::control::model::types::Time;

/// A user's right to a plan for a time.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
pub struct Subscription {
    pub id: SubscriptionId,
    pub user_id: UserId,
    pub plan_id: PlanId,
    pub status: SubscriptionStatus,
    pub starts_at: Time,
    pub valid_until: Time,
    pub cancelled_at: Option<Time>,
    pub created_at: Time,
    /// Counts changes of what administrators may change.
    pub revision: i32,
}

/// A subscription and its plan.
#[derive(Clone, Debug)]
pub(crate) struct SubscriptionAndPlan {
    pub subscription: Subscription,
    pub plan: Plan,
}

impl From<(Subscription, Plan)> for SubscriptionAndPlan {
    fn from((subscription, plan): (Subscription, Plan)) -> Self {
        Self { subscription, plan }
    }
}

/// What an administrator may change of a subscription.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = subscriptions)]
pub struct SubscriptionChange {
    pub plan_id: Option<PlanId>,
    pub status: Option<SubscriptionStatus>,
    pub valid_until: Option<Time>,
    pub cancelled_at: Option<Time>,
}

/// A payment that renewed a subscription or bought traffic, by the payer's own id: it acts once.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
pub struct Payment {
    pub id: String,
    pub subscription_id: SubscriptionId,
    pub kind: PaymentKind,
    pub days: i32,
    pub bytes: i64,
    pub created_at: Time,
}

impl Subscription {
    /// When it ends, grace included.
    pub fn served_until(&self, plan: &Plan) -> Time {
        self.valid_until.after(Duration::from_hours(plan.grace_hours.unsigned_abs().into()))
    }

    /// Whether it pays for traffic at a moment.
    pub fn serves(&self, plan: &Plan, now: Time) -> bool {
        self.status == SubscriptionStatus::Active && self.starts_at <= now && now < self.served_until(plan)
    }

    /// Whether its time is over at a moment.
    pub fn has_expired(&self, plan: &Plan, now: Time) -> bool {
        self.status == SubscriptionStatus::Expired || self.served_until(plan) <= now
    }

    /// What it is at a moment; nothing has to run for it to change.
    pub fn state(&self, plan: &Plan, now: Time) -> SubscriptionState {
        match self.status {
            SubscriptionStatus::Cancelled => SubscriptionState::Cancelled,
            _ if self.has_expired(plan, now) => SubscriptionState::Expired,
            _ if now < self.starts_at => SubscriptionState::Pending,
            _ if self.valid_until <= now => SubscriptionState::Grace,
            SubscriptionStatus::Active | SubscriptionStatus::Expired => SubscriptionState::Active,
        }
    }
}
