use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::Conn;
use crate::control::db::prepared::Prepared;
use crate::control::model::id::SubscriptionId;
use crate::control::model::schema::{sessions, usage_periods};
use crate::control::model::types::Time;
use crate::control::model::{Counters, OpenLease, holding};

/// What sessions hold of a period.
macro_rules! open_leases {
    ($subscription:expr, $start:expr, $now:expr) => {
        Prepared(
            sessions::table
                .filter(sessions::subscription_id.eq($subscription).and(sessions::lease_period.eq($start)))
                .filter(holding().and(sessions::expires_at.gt($now)))
                .select(OpenLease::as_select()),
        )
    };
}

/// Begins a period that has no row, and locks it.
macro_rules! begun {
    ($subscription:expr, $start:expr) => {
        Prepared(
            diesel::insert_into(usage_periods::table)
                .values((
                    usage_periods::subscription_id.eq($subscription),
                    usage_periods::period_start.eq($start),
                    usage_periods::bytes_up.eq(0),
                    usage_periods::bytes_down.eq(0),
                    usage_periods::bonus_bytes.eq(0),
                ))
                .on_conflict((usage_periods::subscription_id, usage_periods::period_start))
                .do_update()
                .set(usage_periods::bytes_up.eq(usage_periods::bytes_up))
                .returning(Counters::as_returning()),
        )
    };
}

/// SQL that adds to a counter of a period what an INSERT has met there already, and stops at the largest number.
pub(super) fn added(column: &str) -> String {
    let most = i64::MAX;
    format!(
        "CASE WHEN usage_periods.{column} > {most} - excluded.{column} THEN {most} \
         ELSE usage_periods.{column} + excluded.{column} END"
    )
}

/// The counters of a period, nothing if it has no row.
pub(crate) async fn counters(conn: &mut Conn, subscription: SubscriptionId, start: Time) -> QueryResult<Counters> {
    let found = usage_periods::table.find((subscription, start)).select(Counters::as_select()).first(conn).await;
    Ok(found.optional()?.unwrap_or_default())
}

/// The counters of a period, and bytes lent of it and not yet reported.
pub(super) async fn lent(
    conn: &mut Conn,
    (subscription, start): (SubscriptionId, Time),
    now: Time,
) -> QueryResult<(Counters, u64)> {
    let counters = counters(conn, subscription, start).await?;
    let open_leases: Vec<OpenLease> = open_leases!(subscription, start, now).load(conn).await?;
    Ok((counters, OpenLease::unused(&open_leases)))
}

/// As [`lent`], under the lock of the period's row, which is made if it is missing.
pub(super) async fn locked(
    conn: &mut Conn,
    (subscription, start): (SubscriptionId, Time),
    now: Time,
) -> QueryResult<(Counters, u64)> {
    let (found, open_leases): (Vec<Counters>, Vec<OpenLease>) = pipelined!(conn =>
        locked_period!(subscription, start).load(conn),
        open_leases!(subscription, start, now).load(conn),
    )?;
    if let [counters] = found.as_slice() {
        return Ok((*counters, OpenLease::unused(&open_leases)));
    }
    let (counters, open_leases): (Counters, Vec<OpenLease>) = pipelined!(conn =>
        begun!(subscription, start).get_result(conn),
        open_leases!(subscription, start, now).load(conn),
    )?;
    Ok((counters, OpenLease::unused(&open_leases)))
}
