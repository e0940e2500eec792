//! How many devices a plan is for (docs/02, "Plans and subscriptions"). Admission, enrollment, administration and diagnosis
//! ask here.

use crate::control::model::Plan;

/// Whether a plan has room for a device beside others that come before it.
pub(crate) fn has_room(plan: &Plan, others: i64) -> bool {
    plan.max_devices.is_none_or(|max| others < i64::from(max))
}

/// How many of a user's devices are too many for a plan.
pub(crate) fn surplus(plan: &Plan, devices: i64) -> i64 {
    plan.max_devices.map_or(0, |max| devices.saturating_sub(max.into()).max(0))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::control::model::id::PlanId;
    use crate::control::model::state::PeriodKind;
    use crate::control::model::types::Time;

    fn plan(max_devices: Option<i32>) -> Plan {
        Plan {
            id: PlanId::fresh(),
            name: String::new(),
            max_devices,
            max_sessions: None,
            traffic_limit_gb: None,
            rate_limit_mbps: None,
            period: PeriodKind::Month,
            period_days: None,
            grace_hours: 0,
            fail_open_mb: 0,
            price: 0,
            currency: String::new(),
            created_at: Time(datetime!(2026-11-28 12:00 UTC)),
            revision: 0,
        }
    }

    #[test]
    fn a_plan_has_room_until_its_number_is_reached() {
        let two = plan(Some(2));
        assert_eq!([0, 1, 2, 3].map(|others| has_room(&two, others)), [true, true, false, false]);
        assert_eq!([0, 2, 3, 5].map(|devices| surplus(&two, devices)), [0, 0, 1, 3]);
        let any = plan(None);
        assert!(has_room(&any, i64::MAX));
        assert_eq!(surplus(&any, i64::MAX), 0);
    }
}
