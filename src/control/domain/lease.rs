//! Traffic is lent to sessions, so that many gateways together cannot exceed a limit (docs/02, "Leases").

use std::time::Duration;

use crate::api::Lease;
use crate::control::model::Plan;
use crate::control::model::calendar::Calendar;

/// Traffic is scarce when less than so many times the least lease is free; the least is so much smaller then.
const SCARCE: u64 = 16;

/// What admission and accounting go by.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) calendar: Calendar,
    /// Least and most bytes lent at once.
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// Life of a reservation, and of a session without a report: leases end with them.
    pub(crate) reservation_ttl: Duration,
    pub(crate) session_ttl: Duration,
    /// Silence after which a client's session may be replaced.
    pub(crate) silent_after: Duration,
    /// The most that a session can move.
    pub(crate) max_bytes_per_second: u64,
}

/// A subscription's traffic in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) limit: u64,
    /// Bytes charged.
    pub(crate) used: u64,
    /// Bytes lent to sessions and not yet reported.
    pub(crate) lent: u64,
}

impl Balance {
    /// What a plan gives for a period in which so much was bought and used, of which nothing is lent; `None` without a limit.
    pub(crate) fn of(plan: &Plan, bonus: u64, used: u64) -> Option<Self> {
        plan.limit_bytes().map(|limit| Self { limit: limit.saturating_add(bonus), used, lent: 0 })
    }

    /// What the user has left.
    pub(crate) fn remaining(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Lends to a session that moved so much since its last report, and asks for more or not; gives how much. While little
    /// is free, only those who ask get any, and 0 means that others hold the rest.
    pub(crate) fn lend(&mut self, moved: u64, asks: bool, rules: &Rules) -> u64 {
        let free = self.remaining().saturating_sub(self.lent);
        let scarce = free < rules.min.saturating_mul(SCARCE);
        let least = match (scarce, asks) {
            (true, false) => return 0,
            (true, true) => (rules.min / SCARCE).max(1),
            (false, _) => rules.min,
        };
        let wish = Lease::demand(moved).clamp(least, rules.max);
        let lent = wish.min((free / 2).max(least)).min(free);
        self.lent = self.lent.saturating_add(lent);
        lent
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules() -> Rules {
        let (reservation_ttl, session_ttl, silent_after) = Default::default();
        Rules {
            calendar: Calendar::default(),
            min: 1000,
            max: 100_000,
            reservation_ttl,
            session_ttl,
            silent_after,
            max_bytes_per_second: 1_250_000_000,
        }
    }

    #[test]
    fn a_lease_follows_the_demand_and_never_exceeds_what_is_free() {
        let rules = rules();
        let mut balance = Balance { limit: 1_000_000, used: 0, lent: 0 };
        assert_eq!(balance.lend(0, false, &rules), 1000, "an idle session gets the least");
        assert_eq!(balance.lend(10_000, false, &rules), 40_000);
        assert_eq!(balance.lend(1_000_000, true, &rules), 100_000, "at most max");
        balance = Balance { limit: 1_000_000, used: 999_000, lent: 400 };
        assert_eq!(balance.lend(50_000, false, &rules), 0, "what is scarce is for those who ask");
        assert_eq!((balance.lend(50_000, true, &rules), balance.lend(0, true, &rules)), (300, 62));
        assert_eq!(balance.remaining(), 1000);
    }

    proptest! {
        #[test]
        fn what_is_charged_and_lent_stays_within_the_limit(
            limit in 0u64..1_000_000,
            steps in prop::collection::vec((0usize..5, 0u64..100_000, any::<bool>()), 1..200),
        ) {
            let rules = rules();
            let mut used = 0;
            let mut held = [0u64; 5];
            for (session, wish, asks) in steps {
                let moved = wish.min(held[session]);
                used += moved;
                held[session] = 0;
                let mut balance = Balance { limit, used, lent: held.iter().sum() };
                held[session] = balance.lend(moved, asks, &rules);
                prop_assert!(used + held.iter().sum::<u64>() <= limit);
            }
        }
    }
}
