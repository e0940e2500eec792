use diesel::prelude::*;

use crate::control::model::id::{CodeId, DeviceId, FamilyId, GatewayId, RefusalId, UserId};
use crate::control::model::schema::{activation_codes, refresh_families, refusals};
use crate::control::model::types::Time;

/// A one-time code that makes a device.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = activation_codes)]
pub struct ActivationCode {
    pub id: CodeId,
    pub user_id: UserId,
    pub code_hash: String,
    pub created_at: Time,
    pub expires_at: Time,
    pub used_at: Option<Time>,
    pub device_id: Option<DeviceId>,
}

/// Refresh tokens of a device that follow each other; only the last two are known.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = refresh_families)]
pub struct RefreshFamily {
    pub id: FamilyId,
    pub device_id: DeviceId,
    pub token_hash: String,
    /// The token before, which may be repeated for a while.
    pub previous_hash: Option<String>,
    pub issued_at: Time,
    pub expires_at: Time,
}

/// A session that was refused to a device.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = refusals)]
pub struct RefusalRow {
    pub id: RefusalId,
    pub device_id: DeviceId,
    pub gateway_node_id: Option<GatewayId>,
    pub code: String,
    pub client_version: Option<String>,
    pub support_id: String,
    pub created_at: Time,
}
