use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::Bool;
use serde::Serialize;

use crate::control::model::schema::sessions;
use crate::control::model::types::{Id, Time};

/// States of a session.
pub(crate) mod state {
    /// A node is reserved; nothing was reported yet.
    pub(crate) const RESERVED: &str = "reserved";
    /// Reported and alive.
    pub(crate) const ACTIVE: &str = "active";
    /// Reported as over; sticky.
    pub(crate) const ENDED: &str = "ended";
    /// The reservation was never used; reopens with a report.
    pub(crate) const EXPIRED: &str = "expired";
    /// Its gateway fell silent; reopens with a report.
    pub(crate) const REAPED: &str = "reaped";
    /// Ended by an administrator; does not reopen.
    pub(crate) const KILLED: &str = "killed";
    /// The states that hold a place on a node.
    pub(crate) const LIVE: [&str; 2] = [RESERVED, ACTIVE];
}

/// Sessions in [`state::LIVE`]. The states are part of the text: a plan that is made once may use the index of these only.
pub(crate) fn live() -> SqlLiteral<Bool> {
    sql("sessions.state IN ('reserved', 'active')")
}

/// Sessions that are over and never moved a byte, as [`live`]: nothing was charged for them.
pub(crate) fn empty() -> SqlLiteral<Bool> {
    sql("sessions.state IN ('ended', 'expired') AND sessions.bytes_up = 0 AND sessions.bytes_down = 0")
}

/// Sessions that may hold a lease, as [`live`]: a gateway may not have heard of a kill yet.
pub(crate) fn holding() -> SqlLiteral<Bool> {
    sql("sessions.state IN ('reserved', 'active', 'killed')")
}

/// One tunnel of a device and what it moved.
#[derive(Clone, Debug, Queryable, Selectable, Serialize)]
pub(crate) struct Session {
    pub id: Id,
    pub user_id: Id,
    pub device_id: Id,
    pub subscription_id: Option<Id>,
    pub gateway_node_id: Id,
    pub outline_node_id: Option<Id>,
    pub state: String,
    pub started_at: Time,
    pub last_report_at: Option<Time>,
    pub expires_at: Time,
    pub ended_at: Option<Time>,
    pub bytes_up: i64,
    pub bytes_down: i64,
    /// Bytes in all that the session may move.
    pub lease_bytes: i64,
    /// The period they are charged to.
    pub lease_period: Option<Time>,
    /// Its client has sent nothing for a while, or its gateway's process drains.
    pub silent: bool,
}

/// A session as it is made.
#[derive(Clone, Debug, Insertable)]
#[diesel(table_name = sessions)]
pub struct NewSession {
    pub id: Id,
    pub user_id: Id,
    pub device_id: Id,
    pub subscription_id: Option<Id>,
    pub gateway_node_id: Id,
    pub outline_node_id: Option<Id>,
    pub state: &'static str,
    pub started_at: Time,
    pub expires_at: Time,
    pub bytes_up: i64,
    pub bytes_down: i64,
    pub lease_bytes: i64,
    pub lease_period: Option<Time>,
    pub silent: bool,
}
