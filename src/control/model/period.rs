use diesel::prelude::*;

use crate::control::model::schema::{sessions, usage_periods};

/// Bytes of a subscription's period: charged, and bought.
#[derive(Clone, Copy, Debug, Default, Queryable, Selectable)]
#[diesel(table_name = usage_periods)]
pub(crate) struct Counters {
    pub bytes_up: i64,
    pub bytes_down: i64,
    pub bonus_bytes: i64,
}

impl Counters {
    /// Bytes charged.
    pub(crate) fn used(self) -> u64 {
        self.bytes_up.unsigned_abs().saturating_add(self.bytes_down.unsigned_abs())
    }

    /// Bytes bought.
    pub(crate) fn bonus(self) -> u64 {
        self.bonus_bytes.unsigned_abs()
    }
}

/// What a session holds of its period's traffic.
#[derive(Clone, Copy, Debug, Queryable, Selectable)]
#[diesel(table_name = sessions)]
pub(crate) struct OpenLease {
    lease_bytes: i64,
    bytes_up: i64,
    bytes_down: i64,
}

impl OpenLease {
    /// Bytes lent by all of these and not yet reported.
    pub(crate) fn unused(open_leases: &[Self]) -> u64 {
        let unused = |loan: &Self| {
            let moved = loan.bytes_up.unsigned_abs().saturating_add(loan.bytes_down.unsigned_abs());
            loan.lease_bytes.unsigned_abs().saturating_sub(moved)
        };
        open_leases.iter().map(unused).fold(0, u64::saturating_add)
    }
}
