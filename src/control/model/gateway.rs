use diesel::prelude::*;

use super::state::GatewayStatus;
use crate::control::model::id::{GatewayId, InstanceId, RegionId};
use crate::control::model::schema::{gateway_instances, gateway_nodes};
use crate::control::model::types::Time;

/// A gateway; of its token only the hash is kept.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = gateway_nodes)]
pub struct Gateway {
    pub id: GatewayId,
    pub region_id: RegionId,
    pub name: String,
    pub public_ip: String,
    pub internal_ip: String,
    pub status: GatewayStatus,
    pub draining: bool,
    pub token_hash: String,
    /// The token before the last rotation; good until the new one is used.
    pub old_token_hash: Option<String>,
    /// A one-time token that is traded for a token.
    pub enrol_hash: Option<String>,
    pub enrol_until: Option<Time>,
    pub revoked: bool,
    /// The newest event that the gateway has acted on.
    pub acked_seq: i64,
    pub version: String,
    pub sessions: i64,
    pub streams: i64,
    pub last_heartbeat_at: Option<Time>,
    pub created_at: Time,
    /// How far its clock is ahead of the control plane's.
    pub clock_offset_ms: Option<i64>,
    /// From when to when its certificate is valid.
    pub certificate_begins: Option<Time>,
    pub certificate_ends: Option<Time>,
    /// Counts changes of what administrators may change.
    pub revision: i32,
}

/// A process that acts for a gateway.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = gateway_instances)]
pub struct GatewayInstance {
    pub gateway_node_id: GatewayId,
    pub id: InstanceId,
    pub version: String,
    pub sessions: i64,
    pub streams: i64,
    /// The newest event that it has acted on.
    pub acked_seq: i64,
    pub started_at: Time,
    pub last_heartbeat_at: Time,
}

/// A heartbeat of a process.
#[derive(Clone, Debug)]
pub(crate) struct InstanceBeat {
    pub instance: GatewayInstance,
    /// No other process acts for the gateway.
    pub alone: bool,
    /// It ends.
    pub leaving: bool,
}

impl Gateway {
    /// Counts what its processes have together; an event is acted on when all of them have.
    pub(crate) fn sum_up(&mut self, instances: &[GatewayInstance]) {
        let own = || instances.iter().filter(|instance| instance.gateway_node_id == self.id);
        let Some(acked_seq) = own().map(|instance| instance.acked_seq).min() else { return };
        let (sessions, streams) = (own().map(|one| one.sessions).sum(), own().map(|one| one.streams).sum());
        (self.acked_seq, self.sessions, self.streams) = (acked_seq, sessions, streams);
    }
}

/// What an administrator may change of a gateway.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = gateway_nodes)]
#[expect(clippy::option_option, reason = "absent leaves a column alone, null clears it")]
pub struct GatewayChange {
    pub region_id: Option<RegionId>,
    pub name: Option<String>,
    pub public_ip: Option<String>,
    pub internal_ip: Option<String>,
    pub draining: Option<bool>,
    pub token_hash: Option<String>,
    pub old_token_hash: Option<Option<String>>,
    pub enrol_hash: Option<Option<String>>,
    pub enrol_until: Option<Option<Time>>,
    pub revoked: Option<bool>,
}
