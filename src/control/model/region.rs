use diesel::prelude::*;

use super::state::EndpointState;
use crate::control::model::id::{EndpointId, GatewayId, RegionId};
use crate::control::model::schema::{gateway_endpoints, regions};
use crate::control::model::types::Time;

/// Where traffic leaves.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
pub struct Region {
    pub id: RegionId,
    pub code: String,
    pub name: String,
    /// JSON object: language to name.
    pub names: String,
    /// ISO 3166 code of the country that destinations see.
    pub exit_country: String,
    pub udp: bool,
    pub ipv6: bool,
    /// Addresses with commas.
    pub resolvers: String,
    /// Counts changes of what administrators may change.
    pub revision: i32,
}

/// What an administrator may change of a region.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = regions)]
pub struct RegionChange {
    pub code: Option<String>,
    pub name: Option<String>,
    pub names: Option<String>,
    pub exit_country: Option<String>,
    pub udp: Option<bool>,
    pub ipv6: Option<bool>,
    pub resolvers: Option<String>,
}

/// One way to reach a gateway.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = gateway_endpoints)]
pub struct Endpoint {
    pub id: EndpointId,
    pub gateway_node_id: GatewayId,
    pub host: String,
    pub port: i32,
    pub sni: String,
    pub path: String,
    /// Names with commas.
    pub transports: String,
    pub tls_pin: String,
    pub weight: i32,
    pub state: EndpointState,
    pub created_at: Time,
    /// Counts changes of what administrators may change.
    pub revision: i32,
}

/// What an administrator may change of an endpoint.
#[derive(Clone, Debug, Default, AsChangeset)]
#[diesel(table_name = gateway_endpoints)]
pub struct EndpointChange {
    pub host: Option<String>,
    pub port: Option<i32>,
    pub sni: Option<String>,
    pub path: Option<String>,
    pub transports: Option<String>,
    pub tls_pin: Option<String>,
    pub weight: Option<i32>,
    pub state: Option<EndpointState>,
}
