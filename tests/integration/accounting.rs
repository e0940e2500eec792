//! Totals, leases, notices and billing periods.

mod leases;
mod notices;
mod periods;
mod totals;
