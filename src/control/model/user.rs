use diesel::prelude::*;

use super::state::{DeviceStatus, IdentifierKind, UserStatus};
use crate::control::model::id::{DeviceId, UserId};
use crate::control::model::schema::{devices, users};
use crate::control::model::types::Time;

/// A customer.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
pub struct User {
    pub id: UserId,
    pub identifier_kind: IdentifierKind,
    pub identifier: String,
    pub status: UserStatus,
    pub created_at: Time,
    pub updated_at: Time,
    /// Counts changes of what administrators may change.
    pub revision: i32,
}

/// What an administrator may change of a user.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = users)]
pub struct UserChange {
    pub identifier_kind: Option<IdentifierKind>,
    pub identifier: Option<String>,
    pub status: Option<UserStatus>,
    pub updated_at: Option<Time>,
}

/// An installation of a client app.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
pub struct Device {
    pub id: DeviceId,
    pub user_id: UserId,
    #[expect(clippy::struct_field_names, reason = "the name of the specification")]
    pub device_uuid: String,
    pub platform: String,
    /// What its user calls it.
    pub name: String,
    pub client_version: Option<String>,
    pub status: DeviceStatus,
    pub created_at: Time,
    pub last_seen_at: Option<Time>,
    /// Counts changes of what administrators may change.
    pub revision: i32,
}

/// What an administrator may change of a device.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = devices)]
pub struct DeviceChange {
    pub platform: Option<String>,
    pub name: Option<String>,
    pub status: Option<DeviceStatus>,
}

/// When a device was there, and with which version of its app if it said so.
pub(crate) type Sighting = (Time, Option<String>);
