use diesel::prelude::*;
use serde::Serialize;

use crate::control::model::schema::{activation_codes, refresh_families, refusals};
use crate::control::model::types::{Id, Time};

/// A one-time code that makes a device.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, Serialize)]
#[diesel(table_name = activation_codes)]
pub struct ActivationCode {
    pub id: Id,
    pub user_id: Id,
    #[serde(skip)]
    pub code_hash: String,
    pub created_at: Time,
    pub expires_at: Time,
    pub used_at: Option<Time>,
    pub device_id: Option<Id>,
}

/// Refresh tokens of a device that follow each other; only the last two are known.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = refresh_families)]
pub struct RefreshFamily {
    pub id: Id,
    pub device_id: Id,
    pub token_hash: String,
    /// The token before, which may be repeated for a while.
    pub previous_hash: Option<String>,
    pub issued_at: Time,
    pub expires_at: Time,
}

/// A session that was refused to a device.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, Serialize)]
#[diesel(table_name = refusals)]
pub struct RefusalRow {
    #[serde(skip)]
    pub id: Id,
    #[serde(skip)]
    pub device_id: Id,
    pub gateway_node_id: Option<Id>,
    pub code: String,
    pub client_version: Option<String>,
    pub support_id: String,
    pub created_at: Time,
}
