use std::sync::LazyLock;

use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::state::SessionState;
use crate::control::model::id::{DeviceId, GatewayId, NodeId, SessionId, SubscriptionId, UserId};
use crate::control::model::schema::sessions;
use crate::control::model::types::Time;

static LIVE: LazyLock<String> = LazyLock::new(|| SessionState::one_of("sessions.state", &SessionState::LIVE));
static LEASING: LazyLock<String> = LazyLock::new(|| SessionState::one_of("sessions.state", &SessionState::LEASING));
static EMPTY: LazyLock<String> = LazyLock::new(|| {
    let unused = SessionState::one_of("sessions.state", &SessionState::UNUSED);
    format!("{unused} AND sessions.bytes_up = 0 AND sessions.bytes_down = 0")
});

/// Sessions in [`SessionState::LIVE`].
pub(crate) fn live() -> SqlLiteral<Bool> {
    sql(&LIVE)
}

/// Sessions that are over and never moved a byte: nothing was charged for them.
pub(crate) fn empty() -> SqlLiteral<Bool> {
    sql(&EMPTY)
}

/// Sessions in [`SessionState::LEASING`].
pub(crate) fn holding() -> SqlLiteral<Bool> {
    sql(&LEASING)
}

/// One tunnel of a device and what it moved.
#[derive(Clone, Debug, Queryable, Selectable)]
pub(crate) struct Session {
    pub id: SessionId,
    pub user_id: UserId,
    pub device_id: DeviceId,
    pub subscription_id: Option<SubscriptionId>,
    pub gateway_node_id: GatewayId,
    pub outline_node_id: Option<NodeId>,
    pub state: SessionState,
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
    pub id: SessionId,
    pub user_id: UserId,
    pub device_id: DeviceId,
    pub subscription_id: Option<SubscriptionId>,
    pub gateway_node_id: GatewayId,
    pub outline_node_id: Option<NodeId>,
    pub state: SessionState,
    pub started_at: Time,
    pub expires_at: Time,
    pub bytes_up: i64,
    pub bytes_down: i64,
    pub lease_bytes: i64,
    pub lease_period: Option<Time>,
    pub silent: bool,
}
