use std::time::Duration;

use diesel::prelude::*;
use serde::Serialize;

use super::Plan;
use crate::control::model::schema::{payments, subscriptions};
use crate::control::model::types::{Id, Time};

const HOUR_SECONDS: u64 = 3600;

/// A user's right to a plan for a time.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, Serialize)]
pub struct Subscription {
    pub id: Id,
    pub user_id: Id,
    pub plan_id: Id,
    pub status: String,
    pub starts_at: Time,
    pub valid_until: Time,
    pub cancelled_at: Option<Time>,
    pub created_at: Time,
}

/// What an administrator may change of a subscription.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = subscriptions)]
pub struct SubscriptionChange {
    pub plan_id: Option<Id>,
    pub status: Option<String>,
    pub valid_until: Option<Time>,
    pub cancelled_at: Option<Time>,
}

/// A payment that renewed a subscription or bought traffic, by the payer's own id: it acts once.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, Serialize)]
pub struct Payment {
    pub id: String,
    pub subscription_id: Id,
    pub kind: String,
    pub days: i32,
    pub bytes: i64,
    pub created_at: Time,
}

impl Subscription {
    /// When it ends, grace included.
    pub fn served_until(&self, plan: &Plan) -> Time {
        self.valid_until.after(Duration::from_secs(u64::from(plan.grace_hours.unsigned_abs()) * HOUR_SECONDS))
    }

    /// Whether it pays for traffic at a moment.
    pub fn serves(&self, plan: &Plan, now: Time) -> bool {
        self.status == "active" && self.starts_at <= now && now < self.served_until(plan)
    }

    /// Whether its time is over at a moment.
    pub fn has_expired(&self, plan: &Plan, now: Time) -> bool {
        self.status == "expired" || self.served_until(plan) <= now
    }

    /// What it is at a moment: `pending`, `active`, `grace`, `expired` or `cancelled`; nothing has to run for it to change.
    pub fn state(&self, plan: &Plan, now: Time) -> &'static str {
        match self.status.as_str() {
            "cancelled" => "cancelled",
            _ if self.has_expired(plan, now) => "expired",
            _ if now < self.starts_at => "pending",
            _ if self.valid_until <= now => "grace",
            _ => "active",
        }
    }
}
