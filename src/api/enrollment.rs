//! How devices and gateways get their tokens.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::frame::lenient::or_default;

/// `POST /api/v1/auth/enroll`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(examples(json!({
    "code": "7KQ2-M9XD-4T6W-1RCF", "device_uuid": "a3b1c6", "platform": "android", "name": "Phone"
})))]
pub struct Enroll {
    pub code: String,
    /// The installation's own id.
    #[schema(min_length = 1, max_length = 255)]
    pub device_uuid: String,
    #[schema(min_length = 1, max_length = 255)]
    pub platform: String,
    /// What the user calls the device.
    #[schema(max_length = 255)]
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_version: Option<String>,
    /// A device to revoke for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<Uuid>,
}

/// `POST /api/v1/auth/refresh`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(examples(json!({ "refresh_token": "a refresh token", "device_uuid": "a3b1c6" })))]
pub struct Refresh {
    pub refresh_token: String,
    pub device_uuid: String,
}

/// The answer to both.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    pub device_id: Uuid,
    pub access_token: String,
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
    pub refresh_token: String,
    /// Seconds.
    pub refresh_expires_in: u64,
}

/// `POST /api/v1/gateway/enroll`
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(examples(json!({ "token": "a one-time token" })))]
pub struct GatewayEnroll {
    pub token: String,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct GatewayEnrolled {
    pub gateway_id: Uuid,
    pub token: String,
}

/// A device as its user is shown it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = OwnDevice)]
pub struct DeviceView {
    pub id: Uuid,
    pub platform: String,
    pub name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
}
